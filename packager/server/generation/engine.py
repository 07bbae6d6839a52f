# SPDX-License-Identifier: Apache-2.0
"""An opened model that generates text: requests in, jobs checked against the contract, steps out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from packager.server.config import Config
from packager.server.errors import RequestError, StartError, quote
from packager.server.execution import session
from packager.server.generation import tools
from packager.server.generation.adapters import Adapter, Adapters
from packager.server.generation.decoder import Steps, open_decoder
from packager.server.generation.guidance import Guides
from packager.server.generation.loop import Job, Step, generate, never
from packager.server.generation.options import sampling_of, whole_within
from packager.server.generation.settings import SAMPLING, TEMPLATE, TOKENIZER, Generation
from packager.server.generation.shared_steps import SharedSteps, independent
from packager.server.generation.templates import Template, TemplateError
from packager.server.generation.tokenizer import Tokenizer

MAX_STOPS = 16
MAX_STOP = 1024  # characters
MAX_TOP = 20


class TooLongError(RequestError):
    """A prompt that leaves no room for an answer."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A model, its tokenizer and its chat template. Several threads may use it."""

    about: Generation
    decoder: Steps
    tokenizer: Tokenizer
    template: Template | None
    session: session.Session
    runtime: str
    guides: Guides
    form: tools.Form | None = None
    adapters: Adapters = field(default_factory=lambda: Adapters(None, "", ()))

    @staticmethod
    def open(config: Config, threads: int) -> Engine:
        """Open what an installation's configuration names. Raises StartError."""
        if config.generation is None or config.files is None:
            raise StartError("this bundle generates no text", hint="build one with `task: text-generation`")
        opened = session.open_artefact(config.runtime, config.artefact, threads, config.device)
        if opened.inputs:  # a runtime that holds the cache itself shows none
            session.check_ports(opened.inputs, opened.outputs, config.interface)
        try:
            about = config.generation
            tokenizer = Tokenizer.open(config.files / TOKENIZER)
            template = _template(config.files / TEMPLATE, about, tokenizer)
            version = f"{config.runtime} {opened.version}"
            guides = Guides(config.files / TOKENIZER, about.vocabulary, about.eos)
            end = tokenizer.text_of(next(iter(about.eos), None))
            form = None if template is None else tools.find_form(template, tokenizer, end)
            adapters = Adapters(config.adapters, config.digest, opened.inputs)
            return Engine(about, open_decoder(opened), tokenizer, template, opened, version, guides, form, adapters)
        except ImportError as error:
            raise StartError(
                f"{error}", hint="pip install 'model-packager[chat]', or install the bundle again"
            ) from None
        except (OSError, ValueError) as error:
            raise StartError(str(error), hint="install the bundle again") from None

    def shared(self, rows: int, prompts: int, on_run: Callable[[int, float], None]) -> Engine:
        """Return this model with runs that at most `rows` answers share; itself where its rows are not independent.

        Of prompts, so many run at once. `on_run` is called with the rows and the seconds of each shared run.
        """
        probe = [number % self.about.vocabulary for number in range(1, 10)]
        if rows < 2 or not self.decoder.batches or not independent(self.decoder, probe):
            return self
        return replace(self, decoder=SharedSteps(self.decoder, rows, prompts, on_run))

    def try_out(self) -> None:
        """Make one token. Raises StartError where the model cannot."""
        try:
            list(self.answer(self.job([0], {"max_tokens": 1})))
        except Exception as error:  # every runtime raises others
            raise StartError(f"the model fails on a prompt of one token: {str(error).strip()[:500]}") from None

    def ids_of(self, text: str) -> list[int]:
        """Return the ids of a plain text."""
        return self.tokenizer.encode(text)

    def ids_of_chat(
        self, messages: Sequence[Mapping[str, Any]], described: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        """Return the ids of a conversation, up to where the assistant goes on. Raises RequestError.

        `described` are the tools that the model may call.
        """
        if self.template is None:
            raise RequestError("the model has no chat template, so it takes plain texts only")
        try:
            return self.tokenizer.encode(self.template.render(messages, tools=described), special=False)
        except TemplateError as error:
            raise RequestError(str(error)) from None

    def job(self, ids: Sequence[int], options: Mapping[str, Any], adapter: Adapter | None = None) -> Job:
        """Check a request against the contract; return what to do. Raises RequestError, TooLongError.

        `options`: `max_tokens`, `temperature`, `top_k`, `top_p`, `repetition_penalty`, `seed`, `stop`, `top`, and
        `grammar` of `guidance`. What is left out is the publisher's default; None is the same. An adapter changes the
        model for this answer.
        """
        given = {name: value for name, value in options.items() if value is not None}
        if unknown := sorted(set(given) - {"grammar", "max_tokens", "seed", "stop", "top", *SAMPLING}):
            raise RequestError(f"{quote(unknown[0])} is not supported")
        if not ids:
            raise RequestError("the prompt is empty")
        if outside := [token for token in ids if not 0 <= token < self.about.vocabulary]:
            raise RequestError(f"the vocabulary has no token {outside[0]}")
        room = self.about.context - len(ids)
        if room < 1:
            raise TooLongError(
                f"the prompt has {len(ids)} tokens, and the context {self.about.context} for prompt and answer together"
            )
        most = min(whole_within(given, "max_tokens", 1, (1 << 31) - 1, room), room)
        if "grammar" in given:
            self.guides.check(given["grammar"])
        return Job(
            tuple(ids),
            most,
            sampling_of(self.about, given),
            _stops(given.get("stop", ())),
            whole_within(given, "top", 0, MAX_TOP, 0),
            given.get("grammar", ""),
            None if adapter is None else adapter.weights,
        )

    def answer(self, job: Job, cancelled: Callable[[], bool] = never) -> Iterator[Step]:
        """Yield the tokens of an answer. Raises GuidanceError where its grammar becomes too complex."""
        guide = self.guides.begin(job.grammar) if job.grammar else None
        return generate(self.decoder, self.tokenizer, self.about.eos, job, cancelled, guide)


def _template(path: Path, about: Generation, tokenizer: Tokenizer) -> Template | None:
    if about.template is None:
        return None
    return Template.open(path, tokenizer.text_of(about.bos), tokenizer.text_of(next(iter(about.eos), None)))


def _stops(value: Any) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or len(listed) > MAX_STOPS:
        raise RequestError(f"`stop`: expected a text or at most {MAX_STOPS} of them, got {quote(value)}")
    if any(not isinstance(text, str) or not 0 < len(text) <= MAX_STOP for text in listed):
        raise RequestError(f"`stop`: expected texts of 1 to {MAX_STOP} characters")
    return tuple(listed)

# SPDX-License-Identifier: Apache-2.0
"""Conformance of bundles that generate text: the recorded tokens of the source, on a version of a runtime.

Each cell runs the program that serves, in an environment with that version, or as an installation. Levels, as in the
table of a tensor bundle:

    L1  the model and the tokenizer load, and one token comes
    L2  the ids of every reference prompt, the rendered conversation among them, and the text of its answer
    L3  the source's tokens, fed one by one: their log-probabilities within the tolerance, and greedy choice equal to
        them wherever the recorded gap to the second token is larger than the tolerance
    L4  a prompt in the middle of others answers the same, a seed repeats, a text that stops is kept out, an answer
        ends where the context does

An encoder-decoder is tested through its sources: L2 leaves out the ids of audio, and L3 searches the recorded
answer with beams as well.

The tokens are in a statement about the bundle: without a trusted signer there is nothing to compare with.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packager import canonical
from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.conform.cells import PlannedCell
from packager.conform.programs import list_variables
from packager.deploy import conversation, server_files
from packager.deploy.conversation import Answer, Conversation
from packager.errors import PackagerError, UsageError
from packager.lock import environments
from packager.runtime import GENERATION_REQUIREMENTS

OUTPUTS = "outputs.json"
PROMPTS = "vectors/prompts.json"
_SERVER = ("orjson>=3.10", *GENERATION_REQUIREMENTS)
_CHOICES = ("yes", "no")
_RECORDED = 1e-6  # log-probabilities are recorded with six digits


@dataclass(frozen=True, slots=True)
class Reference:
    """What the bundle asks and the source answered, and how far apart log-probabilities may be."""

    prompts: Sequence[Mapping[str, JSON]]
    answers: Mapping[str, Mapping[str, JSON]]
    context: int
    beams: int = 1
    longest: int = 0
    steps: int = 0
    audio: Mapping[str, bytes] = field(default_factory=dict)

    @staticmethod
    def of(bundle: Bundle, stated: Mapping[str, bytes]) -> Reference:
        """Read both sides. Raises UsageError where no trusted signer stated the answers."""
        if OUTPUTS not in stated or bundle.contract.generation is None:
            raise UsageError(
                "the tokens to compare with are in a statement of the publisher, and none is trusted here",
                hint="give --key or --trust; a build leaves the statement, and `packager sign` signs it as well",
            )
        answers = canonical.load(stated[OUTPUTS], limit=64 << 20)["prompts"]
        document, about = bundle.load(PROMPTS), bundle.contract.generation
        prompts = document["prompts"]
        heard = {row["name"]: bundle.read(f"vectors/{row['audio']}") for row in prompts if "audio" in row}
        named = {row["name"]: row for row in answers}
        if about.decoding is None:
            return Reference(prompts, named, about.context)
        how = about.decoding
        return Reference(prompts, named, about.context, how.beams, how.longest, document["steps"], heard)

    def source(self, prompt: Mapping[str, JSON]) -> dict[str, Any]:
        """Return what the worker is given of a prompt."""
        if prompt["name"] in self.audio:
            return {"audio": base64.b64encode(self.audio[str(prompt["name"])]).decode()}
        return {"ids": list(prompt["ids"])}


@dataclass(slots=True)
class _Cell:
    """The checks of one cell so far."""

    checks: list[JSON] = field(default_factory=list)

    def add(self, level: int, name: str, reason: str | None) -> bool:
        """Note a check; return whether it passed."""
        outcome = "pass" if reason is None else "fail"
        self.checks.append(
            {"name": name, "level": level, "outcome": outcome, "reason": reason or "", "seconds": 0.0, "known": ""}
        )
        return reason is None

    def levels(self, last: int) -> dict[str, str]:
        """Return the outcome of every level up to the last one that was requested."""
        found: dict[str, str] = {}
        for number in range(last + 1):
            outcomes = {check["outcome"] for check in self.checks if check["level"] == number}
            found[f"L{number}"] = "fail" if "fail" in outcomes else "pass" if outcomes else "skip"
        return found


def command_of(
    planned: PlannedCell, bundle: Bundle, files: Path, scratch: Path, python: Path, suite: Path
) -> tuple[list[str], Mapping[str, str]]:
    """Return what starts the program that serves on an environment's Python, and its variables."""
    app = scratch / "app"
    for name, data in server_files.list_program(bundle.contract.targets[planned.target].target.runtime).items():
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).write_bytes(data)
    (scratch / "bundle").symlink_to(files)
    (scratch / server_files.CONFIG).write_bytes(server_files.build_config(bundle, planned.target))
    return conversation.build_command(python, app, scratch / server_files.CONFIG, 1), list_variables(
        scratch, python, suite
    )


def environment_of(planned: PlannedCell, cache: Path, on_event: Callable[[Any], None]) -> Path:
    """Return the interpreter of an environment with the version under test, and what generation needs besides."""
    return environments.ensure_environment((*planned.requirements, *_SERVER), planned.python, cache, on_event)


def judge(
    reference: Reference,
    tolerance: Mapping[str, float],
    start: Callable[[], contextlib.AbstractContextManager[Conversation]],
    level: int,
    expected: str | None = None,
) -> dict[str, JSON]:
    """Run the levels over one started model; return the members of its verdict.

    `expected` is the runtime and version that has to run; None: what the installation has.
    """
    cell, began, measures = _Cell(), time.monotonic(), dict[str, JSON]()
    identity: dict[str, JSON] = {}
    try:
        with start() as model:
            measures["cold_start_seconds"] = round(time.monotonic() - began, 3)
            identity["runtime"] = found = str(model.about["runtime"])
            other = f"expected {expected}, got {found}" if expected not in (None, found) else None
            cell.add(1, "it is the runtime under test", other)
            _run(cell, model, reference, tolerance, level, measures)
    except PackagerError as error:
        cell.add(1, "the model answers", error.message)
    levels = cell.levels(level)
    failed = [check for check in cell.checks if check["outcome"] == "fail"]
    reason = f"{failed[0]['name']}: {failed[0]['reason']}" if failed else ""
    return {
        "outcome": "fail" if failed else "pass",
        "reason": reason,
        "levels": levels,
        "identity": identity,
        "checks": cell.checks,
        "measures": measures,
    }


def _run(
    cell: _Cell,
    model: Conversation,
    reference: Reference,
    tolerance: Mapping[str, float],
    level: int,
    measures: dict[str, JSON],
) -> None:
    cell.add(0, "the bundle is whole", None)
    cell.add(1, "the model answers", None)
    for prompt in reference.prompts if level >= 2 else ():
        _check_texts(cell, model, prompt, reference.answers[str(prompt["name"])])
    for prompt in reference.prompts if level >= 3 else ():
        answer = reference.answers[str(prompt["name"])]
        _check_tokens(cell, model, reference, prompt, answer, tolerance)
        if "beams" in answer:
            _check_beams(cell, model, reference, prompt, answer)
    if level >= 3 and not reference.steps:
        _check_own_loop(cell, model, reference, tolerance)
    if level >= 4:
        _check_behaviour(cell, model, reference)
    if level >= 5:
        measures |= _speed(model, reference.source(reference.prompts[0]))
        cell.add(5, "tokens come, and their speed is known", None)


def _check_texts(cell: _Cell, model: Conversation, prompt: Mapping[str, JSON], answer: Mapping[str, JSON]) -> None:
    name = prompt["name"]
    if "messages" in prompt:
        found = model.request(do="encode_chat", messages=prompt["messages"])["ids"]
    elif "text" in prompt:
        found = model.request(do="encode", text=prompt["text"], special=prompt["special"])["ids"]
    else:
        found = prompt["ids"]
    cell.add(2, f"prompt {name}: ids", _first_difference(prompt["ids"], found))
    text = model.request(do="decode", ids=answer["tokens"])["text"]
    cell.add(2, f"prompt {name}: text", None if text == answer["text"] else "the answer's text is another one")


def _first_difference(expected: Sequence[int], got: Sequence[int]) -> str | None:
    pairs = enumerate(itertools.zip_longest(expected, got))
    place = next(((index, left, right) for index, (left, right) in pairs if left != right), None)
    return None if place is None else f"token {place[0]}: expected {place[1]}, got {place[2]}"


def _check_tokens(
    cell: _Cell,
    model: Conversation,
    reference: Reference,
    prompt: Mapping[str, JSON],
    answer: Mapping[str, JSON],
    tolerance: Mapping[str, float],
) -> None:
    steps = {"steps": reference.steps} if reference.steps else {}
    found = model.request(do="force", **reference.source(prompt), tokens=answer["tokens"], **steps)
    name, worst = prompt["name"], ""
    other = ""
    for step, (token, odds, gap) in enumerate(zip(answer["tokens"], answer["logprobs"], answer["gaps"], strict=True)):
        # A log-probability moves with its own logit and with the sum over all of them: twice the tolerance of a logit.
        allowed = 2 * (tolerance["atol"] + tolerance["rtol"] * abs(odds)) + _RECORDED
        difference = abs(found["logprobs"][step] - odds)
        if difference > allowed and not worst:
            worst = f"step {step}: off by {difference:.3g} where {allowed:.3g} is allowed"
        if found["best"][step] != token and gap > allowed and not other:
            other = f"step {step}: expected token {token}, got {found['best'][step]} (recorded gap {gap:.3g})"
    cell.add(3, f"prompt {name}: log-probabilities", worst or None)
    cell.add(3, f"prompt {name}: greedy tokens", other or None)


def _check_own_loop(cell: _Cell, model: Conversation, reference: Reference, tolerance: Mapping[str, float]) -> None:
    """Compare what the runtime's own loop and tokenizer make of the prompts, where programs of others use those."""
    answers = [reference.answers[str(prompt["name"])] for prompt in reference.prompts]
    prompts = [
        {**{name: prompt[name] for name in ("ids", "text", "special")}, "count": len(answer["tokens"])}
        for prompt, answer in zip(reference.prompts, answers, strict=True)
    ]
    answered = model.request_if_known(do="own", prompts=prompts)
    if answered is None or answered["own"] is None:
        return
    if len(answered["own"]) != len(prompts):
        cell.add(3, "the runtime's own loop", f"expected {len(prompts)} answers, got {len(answered['own'])}")
    for prompt, answer, own in zip(reference.prompts, answers, answered["own"], strict=False):
        name = prompt["name"]
        cell.add(2, f"prompt {name}: ids of the runtime's own tokenizer", _first_difference(prompt["ids"], own["ids"]))
        other = _other_token(answer, own["tokens"], tolerance)
        cell.add(3, f"prompt {name}: greedy tokens of the runtime's own loop", other)


def _other_token(answer: Mapping[str, JSON], got: Sequence[int], tolerance: Mapping[str, float]) -> str | None:
    """Return the first difference; none behind a tie, where the answers go apart and both are right."""
    pairs = zip(answer["tokens"], got, answer["gaps"], answer["logprobs"], strict=False)
    first = next(((gap, odds) for expected, token, gap, odds in pairs if token != expected), None)
    tie = first is not None and first[0] <= 2 * (tolerance["atol"] + tolerance["rtol"] * abs(first[1])) + _RECORDED
    return None if tie and len(got) == len(answer["tokens"]) else _first_difference(answer["tokens"], got)


def _check_beams(
    cell: _Cell, model: Conversation, reference: Reference, prompt: Mapping[str, JSON], answer: Mapping[str, JSON]
) -> None:
    """Search as the source did; other tokens than its own need the same score."""
    expected = answer["beams"]["tokens"]
    options = {"max_tokens": reference.steps, "temperature": 0, "beams": reference.beams}
    made = _answer(model, reference.source(prompt), **options)
    cell.add(3, f"prompt {prompt['name']}: beams", _first_difference(expected, made.tokens))


def _check_behaviour(cell: _Cell, model: Conversation, reference: Reference) -> None:
    ids = reference.source(reference.prompts[0])
    first = _answer(model, ids, max_tokens=8, temperature=0)
    for prompt in reference.prompts[1:3]:
        _answer(model, reference.source(prompt), max_tokens=2, temperature=0)
    again = _answer(model, ids, max_tokens=8, temperature=0)
    cell.add(4, "a prompt answers the same after others", _first_difference(first.tokens, again.tokens))
    seeds = [_answer(model, ids, max_tokens=8, temperature=1, seed=7).tokens for _ in range(2)]
    cell.add(4, "a seed repeats", _first_difference(*seeds))
    if reference.steps:  # an encoder-decoder has no texts that stop, and its answer may have the whole context
        return
    text = model.request(do="decode", ids=first.tokens)["text"]
    if stop := text[len(text) // 2 :][:4]:
        shown = "".join(
            piece
            for piece in model.ask(ids, {"max_tokens": 8, "temperature": 0, "stop": stop})
            if isinstance(piece, str)
        )
        cell.add(4, "a text that stops is kept out", f"the answer holds `{stop}`" if stop in shown else None)
    _check_schema(cell, model, ids["ids"])
    room = reference.context - len(ids["ids"])
    if room <= 512:
        full = _answer(model, ids, temperature=0)
        late = len(full.tokens) > room or (full.finish == "length" and len(full.tokens) != room)
        cell.add(
            4, "an answer ends where the context does", f"{len(full.tokens)} tokens, room for {room}" if late else None
        )


def _check_schema(cell: _Cell, model: Conversation, ids: Sequence[int]) -> None:
    """Check that an answer keeps to a JSON schema, where this model's tokenizer and installation can do that."""
    from packager.server.generation.guidance import schema_grammar  # with numpy, which no verb imports at its start

    known = model.request_if_known(do="grammars")
    if known is None or not known["grammars"]:
        return
    options = {"max_tokens": 64, "temperature": 1, "seed": 7, "grammar": schema_grammar({"enum": list(_CHOICES)})}
    shown = "".join(piece for piece in model.ask({"ids": list(ids)}, options) if isinstance(piece, str))
    wrong = None if shown in map(json.dumps, _CHOICES) else f"expected one of {', '.join(_CHOICES)}, got `{shown[:80]}`"
    cell.add(4, "an answer keeps to a JSON schema", wrong)


def _answer(model: Conversation, source: Mapping[str, Any], **options: Any) -> Answer:
    return next(piece for piece in model.ask(source, options) if not isinstance(piece, str))


def _speed(model: Conversation, source: Mapping[str, Any]) -> dict[str, JSON]:
    """Return how long the first token took, and how many tokens a second came then; of one run, with one thread."""
    started = time.perf_counter()
    _answer(model, source, max_tokens=1, temperature=0)
    first = time.perf_counter() - started
    started = time.perf_counter()
    made = _answer(model, source, max_tokens=33, temperature=0)
    left = time.perf_counter() - started - first
    rate = (len(made.tokens) - 1) / left if left > 0 and len(made.tokens) > 1 else None
    return {"first_token_seconds": round(first, 4), **({"tokens_per_second": round(rate, 2)} if rate else {})}

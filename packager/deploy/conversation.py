# SPDX-License-Identifier: Apache-2.0
"""Talk to a bundle that generates text: a process of an installation's own environment, or of this one.

The model runs in a process of its own, without the caller's environment. An installation is run by its own interpreter
and program; a bundle, which the caller has verified, is written to a scratch directory, hashed on the way, and run by
this Python.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from packager.bundle.bundle import Bundle
from packager.deploy import server_files
from packager.deploy.install import find_current, read_config
from packager.deploy.server_files import CONFIG
from packager.errors import MissingToolError, StepError, UsageError
from packager.events import OnEvent, ignore
from packager.files import storage_errors
from packager.transport import copy

_PROGRAM = "packager.server.generation.worker"
_INSTALLED = (
    f"import sys; sys.path.insert(0, sys.argv.pop(1)); from {_PROGRAM} import main; sys.exit(main(sys.argv[1:]))"
)
_NEEDS = ("numpy", "onnxruntime", "tokenizers", "jinja2", "orjson")
_KEPT = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "ORT_DISABLE_TELEMETRY")
_UNKNOWN = "the request is unknown"  # what a program answers to a request that only newer ones know
_MAX_LINE = 64 << 20  # characters of one answer of the process


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: why it ended (`stop`, `length`), its tokens and their log-probabilities."""

    finish: str
    prompt_tokens: int
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


class Conversation:
    """A running model. Requests are answered one after the other."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.about = self._read()
        if "error" in self.about:
            raise StepError(str(self.about["error"]), hint=self.about.get("hint"))

    def ask(self, prompt: Mapping[str, Any], options: Mapping[str, Any]) -> Iterator[str | Answer]:
        """Yield the pieces of the answer as they come, then what it was. Raises UsageError for a refused request.

        `prompt` has `messages`, a `text`, or `ids`; `options` are those of `packager.server.generation.engine`.
        """
        self._write({"do": "answer", **prompt, "options": options})
        while "text" in (answer := self._read()):
            yield str(answer["text"])
        if "error" in answer:
            raise UsageError(str(answer["error"]))
        yield Answer(
            str(answer["finish"]), int(answer["prompt_tokens"]), tuple(answer["tokens"]), tuple(answer["logprobs"])
        )

    def request(self, **request: Any) -> Mapping[str, Any]:
        """Return the answer of one line to a request of the worker's protocol. Raises StepError."""
        answer = self.request_if_known(**request)
        if answer is None:
            raise StepError(_UNKNOWN, hint="the program of the model is older; install the bundle again")
        return answer

    def request_if_known(self, **request: Any) -> Mapping[str, Any] | None:
        """Return what `request` does, None from a program that does not know the request. Raises StepError."""
        self._write(request)
        answer = self._read()
        if answer.get("error") == _UNKNOWN:
            return None
        if "error" in answer:
            raise StepError(str(answer["error"]))
        return answer

    def _write(self, request: Mapping[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # reading says what happened
            _pipe(self._process.stdin).write(f"{json.dumps(request)}\n")
            _pipe(self._process.stdin).flush()

    def _read(self) -> Mapping[str, Any]:
        line = _pipe(self._process.stdout).readline(_MAX_LINE)
        if not line:
            raise StepError(
                f"the process of the model ended with status {self._process.wait()}",
                hint="its last lines on stderr say where; a model that is larger than memory ends so as well",
            )
        found: Mapping[str, Any] = json.loads(line)
        return found


def _pipe(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise StepError("the process of the model has no pipes")
    return stream


@contextlib.contextmanager
def open_installation(directory: Path, environment: Mapping[str, str], threads: int = 0) -> Iterator[Conversation]:
    """Run the current release of an installation. Raises UsageError, StepError."""
    release = find_current(directory)
    if "generation" not in (config := read_config(release)):
        raise _no_text(str(config.get("name")), str(config.get("version")))
    python, app = release / "env" / "bin" / "python", release / "app"
    if not (app / "packager" / "server" / "generation").is_dir():
        raise UsageError(f"`{release.name}` was installed by an older packager", hint="install the bundle again")
    with start_conversation(build_command(python, app, release / CONFIG, threads), environment) as conversation:
        yield conversation


def _no_text(name: str, version: str) -> UsageError:
    return UsageError(
        f"`{name}:{version}` generates no text",
        hint="bundles of recipes with `task: text-generation` do; `packager serve` answers for the others",
    )


def build_command(python: Path, app: Path, config: Path, threads: int) -> list[str]:
    """Return what runs the model of a configuration with an interpreter and a copy of the server."""
    return [str(python), "-I", "-c", _INSTALLED, str(app), str(config), str(threads)]


@contextlib.contextmanager
def open_bundle(
    bundle: Bundle,
    environment: Mapping[str, str],
    target: str | None = None,
    threads: int = 0,
    on_event: OnEvent = ignore,
) -> Iterator[Conversation]:
    """Run a bundle that the caller has verified, in this Python. Raises UsageError, MissingToolError, StepError."""
    if bundle.contract.generation is None:
        raise _no_text(bundle.name, bundle.version)
    if missing := [name for name in _NEEDS if importlib.util.find_spec(name) is None]:
        raise MissingToolError(missing[0], "chat")
    chosen = server_files.choose_target(bundle.contract, target)
    scratch = Path(tempfile.mkdtemp(prefix="packager-chat-"))
    try:
        with storage_errors(scratch):
            (scratch / "bundle").mkdir()
            copy.write_unpacked(bundle, scratch / "bundle", on_event)
            (scratch / CONFIG).write_bytes(server_files.build_config(bundle, chosen))
        own = [sys.executable, "-P", "-m", _PROGRAM, str(scratch / CONFIG), str(threads)]
        with start_conversation(own, environment) as conversation:
            yield conversation
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def start_conversation(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Conversation]:
    """Start the process of a model, and end it afterwards. Raises StepError where it does not load."""
    seen = {name: environment[name] for name in _KEPT if name in environment}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=seen, text=True, encoding="utf-8"
    )
    try:
        yield Conversation(process)
    finally:
        with contextlib.suppress(OSError):
            _pipe(process.stdin).close()
        process.kill()
        process.wait()
        _pipe(process.stdout).close()

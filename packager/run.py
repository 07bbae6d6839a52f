# SPDX-License-Identifier: Apache-2.0
"""Run actions: look the key up, else perform it in a confined process, then remember.

A failure raises and leaves no trace but its log; two processes with the same key work once. The parent moves the
worker's output into the store: the worker itself never sees the store.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

from packager import canonical
from packager.errors import StepError, StorageError, TooNewError
from packager.events import Cached, Finished, OnEvent, Started, ignore
from packager.files import storage_errors
from packager.isolation.pinning import numerics
from packager.isolation.sandbox import (
    Confinement,
    Limits,
    choose,
    command,
    environment,
    filter_file,
    host,
    of_environment,
)
from packager.store import Store
from packager.types import Action, Blob, Result

Item = TypeVar("Item")
Value = TypeVar("Value")
_NOISE = re.compile(
    r"Fontconfig (error|warning)|[IWE]0000 00:00:|WARNING: All log messages before absl|To enable the following instr"
)
LOG_TAIL = 4000  # characters of a failed worker's log that travel with the error


class Runner:
    """Runs actions against one store. `perform` may be given for work that needs the network (fetching)."""

    def __init__(
        self, store: Store, limits: Limits, on_event: OnEvent = ignore, jobs: int = 1, *, confined: bool = True
    ) -> None:
        self.store, self.limits, self.on_event, self.jobs = store, limits, on_event, jobs
        self.confined = confined  # not: workers run unconfined, and what such a one did is good enough
        self.executed = 0
        self.steps: dict[str, tuple[Action, Result]] = {}  # everything that was asked for, by key
        self._workers: set[subprocess.Popen[bytes]] = set()

    def __call__(
        self,
        action: Action,
        label: str,
        *,
        perform: Callable[[Path], canonical.JSON] | None = None,
        hashed: Mapping[str, Blob] | None = None,
        place: Callable[[], Path] | None = None,
        limits: Limits | None = None,
    ) -> Result:
        """Return the result of `action`, from memory if it is known.

        `perform` does it in this process; what it hashed while writing, it may leave in `hashed`. `place` gives the
        virtual environment to run in, asked for only if something runs; None is this Python. `limits` are other ones
        than those of this runner.
        """
        if known := self._recalled(action, perform is None):
            self.on_event(Cached(label))
            return self._noted(action, known)
        with self.store.single_flight(action.key):
            if known := self._recalled(action, perform is None):  # another process was faster
                self.on_event(Cached(label))
                return self._noted(action, known)
            self.on_event(Started(label))
            started = time.monotonic()
            by = None if perform else choose(wanted=self.confined)  # before anything is installed for it
            built = place() if place else None
            result = self._perform(action, by, perform, hashed, built, limits or self.limits)
            self.executed += 1
            self.on_event(Finished(label, time.monotonic() - started))
            ran = built.name if built else None
            # Only what is not confined well enough can be known here already.
            known = self.store.remember(action.key, action.to_json(), result, ran, instead=by is not None)
            return self._noted(action, known)

    def _recalled(self, action: Action, by_worker: bool) -> Result | None:
        """Return what is known, unless a worker did it that was not confined, and here it must be."""
        known = self.store.recall(action.key)
        if known and by_worker and self.confined:
            return known if known.confinement and Confinement.from_json(known.confinement).level != "none" else None
        return known

    def _noted(self, action: Action, result: Result) -> Result:
        self.steps[action.key] = action, result
        return result

    def _perform(
        self,
        action: Action,
        by: Confinement | None,
        perform: Callable[[Path], canonical.JSON] | None,
        hashed: Mapping[str, Blob] | None,
        place: Path | None,
        limits: Limits,
    ) -> Result:
        with self.store.scratch() as scratch:
            out = scratch / "out"
            out.mkdir()
            if by is None:
                facts = perform(out) if perform else None
            else:
                facts = execute(self.store, action, scratch, limits, by, living=self._workers, place=place)
            return Result(self.store.ingest(out, hashed).digest, facts, confinement=by and by.to_json())

    def each(self, function: Callable[[Item], Value], items: Iterable[Item]) -> list[Value]:
        """Apply `function` to independent items, `jobs` at a time; results keep the order of the items."""
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                return list(pool.map(function, items))
            except BaseException:  # one failed, or Ctrl-C: do not let the others run to their end unseen
                pool.shutdown(wait=False, cancel_futures=True)
                for process in list(self._workers):
                    _kill(process)
                raise


def execute(
    store: Store,
    action: Action,
    scratch: Path,
    limits: Limits,
    by: Confinement,
    *,
    living: set[subprocess.Popen[bytes]] | None = None,
    place: Path | None = None,
) -> canonical.JSON:
    """Perform one action in a process of its own, confined `by`; its files are left in `scratch/out`.

    A top-level function of plain data, so that a local process and a remote worker can call the same one; `living`
    is where the process is listed while it lives, `place` the virtual environment it runs in (None: this Python).
    Raises StepError with the step's message, or with the tail of its log when it died.
    """
    (scratch / "home").mkdir()
    gpu = bool(action.params.get("gpu"))
    if gpu:  # CUDA reserves address space for all memory of every GPU and of the host
        limits = replace(limits, memory=0)
    inputs = {role: store.checkout(store.tree(digest), scratch / "in" / role) for role, digest in action.inputs.items()}
    python = of_environment(place, scratch / "code") if place else host()
    job = {
        "action": action.to_json(),
        "inputs": {role: str(path) for role, path in inputs.items()},
        "out": str(scratch / "out"),
        "answer": str(scratch / "answer.json"),
        "limits": asdict(limits),
        "confinement": by.to_json(),
        "places": python.places,
    }
    with storage_errors(scratch):
        (scratch / "job.json").write_bytes(json.dumps(job).encode())
    variables = environment(scratch, numerics(), python.code)
    arguments = ["-m", "packager.isolation.worker", str(scratch / "job.json")]
    with filter_file() as calls:
        line = command(scratch, arguments, variables, python, by, calls=calls, gpu=gpu)
        code, log = _run_worker(scratch, line, variables, limits, set() if living is None else living, calls)
    return _answer(scratch / "answer.json", action.step, code, log)


def _run_worker(
    scratch: Path, arguments: list[str], variables: Mapping[str, str], limits: Limits,
    living: set[subprocess.Popen[bytes]], calls: int | None,
) -> tuple[int, str]:  # fmt: skip
    log = scratch / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=variables,
            cwd=scratch,
            start_new_session=True,
            pass_fds=() if calls is None else (calls,),
        )
        living.add(process)
        try:
            code = process.wait(limits.seconds)
        except subprocess.TimeoutExpired:
            raise StepError(
                f"the step did not end within {limits.seconds} seconds",
                hint="raise `limits: {minutes: …}` in the recipe",
                log=_tail(log),
            ) from None
        finally:  # whatever happened here, the worker and its children do not outlive this block
            _kill(process)
            living.discard(process)
    return code, _tail(log)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _answer(file: Path, step: str, code: int, log: str) -> canonical.JSON:
    if code == errno.ENOSPC:
        raise StorageError(
            f"no space left for the output of step `{step}`", hint="free some space in the store's file system"
        )
    try:
        answer = canonical.load(file.read_bytes(), limit=64 << 20)
    except (FileNotFoundError, ValueError):
        raise StepError(f"step `{step}` {_death(code)}", hint="the log above says where", log=log) from None
    if "error" in answer:
        if "needs" in answer["error"]:
            raise TooNewError(*answer["error"]["needs"])
        raise StepError(answer["error"]["message"], hint=answer["error"]["hint"], log=log)
    return answer["facts"]


def _death(code: int) -> str:
    """Say how a process ended; bubblewrap reports a child's signal as 128 + its number."""
    number = -code if code < 0 else code - 128
    if number == signal.SIGKILL:
        return "was killed, most likely because the machine ran out of memory"
    if number in {item.value for item in signal.Signals}:
        return f"crashed with {signal.Signals(number).name}"
    return f"failed with status {code}"


def _tail(log: Path) -> str:
    """Return the end of a log, without what libraries write each time they start in a confined process."""
    rows = log.read_bytes()[-LOG_TAIL:].decode("utf-8", "replace").splitlines()
    return "\n".join(row for row in rows if not _NOISE.match(row)).strip()

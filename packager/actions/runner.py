# SPDX-License-Identifier: Apache-2.0
"""Run actions: look the key up, else perform it in a confined process, then remember.

A failure raises and leaves no trace but its log; two processes with the same key work once. The worker never sees the
store; what it leaves is untrusted data, which the parent copies into the store once all of the worker is dead.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

from packager import canonical, edits, json_schema, plugins, untrusted_files
from packager.errors import IntegrityError, StepError, StorageError, TooNewError
from packager.events import Cached, Finished, OnEvent, Started, ignore
from packager.files import storage_errors
from packager.sandbox import preloads, warm
from packager.sandbox.pinning import pin_numerics
from packager.sandbox.process import MAX_ANSWER, Outcome, Running
from packager.sandbox.sandbox import (
    Confinement,
    Limits,
    Step,
    build_environment,
    choose_confinement,
    environment_interpreter,
    host_interpreter,
    run_confined,
)
from packager.sandbox.warm import ForkServer
from packager.store.store import Store
from packager.types import Action, Blob, Result, Tree

Item = TypeVar("Item")
Value = TypeVar("Value")
_NOISE = re.compile(
    r"Fontconfig (error|warning)|[IWE]0000 00:00:|WARNING: All log messages before absl|To enable the following instr"
    r"|Extension modules: "
)
OUTPUT = untrusted_files.Bounds()  # of what a worker leaves
LOG_TAIL = 4000  # characters of a failed worker's log that travel with the error


@dataclass(frozen=True, slots=True)
class Job:
    """An action to perform: under which limits, whether its worker is `confined`, in which virtual environment.

    `virtualenv` returns the environment, built if it is not there; None is this Python. `memory` is what the step needs
    in bytes where that is known, 0 elsewhere: limits say what it may use at most. `next_kind` is the kind of the source
    that is opened next on this machine, if it is: its libraries can be imported meanwhile.
    """

    action: Action
    label: str
    limits: Limits
    confined: bool = True
    virtualenv: Callable[[], Path] | None = None
    memory: int = 0
    next_kind: str | None = None


class Executor(Protocol):
    """Performs actions that no store remembers: in a process of this machine, or on another one."""

    def perform(self, job: Job, store: Store) -> tuple[Result, str | None]:
        """Return the result, its tree in `store`, and the name of the environment of `store` that it ran in.

        Raises StepError for a step that fails, and nothing is remembered.
        """

    def stop(self) -> None:
        """End what runs: another action failed, or the user interrupts."""


class LocalExecutor:
    """Performs actions in confined processes of this machine."""

    def __init__(self) -> None:
        self._workers: set[Running] = set()

    def perform(self, job: Job, store: Store) -> tuple[Result, str | None]:
        by = choose_confinement(wanted=job.confined)  # before anything is installed for it
        built = job.virtualenv() if job.virtualenv else None
        server = find_fork_server(job, store, by)
        if server:
            by = replace(by, level="namespaces")  # of a step that has to start afresh it is the least that holds
        with store.scratch() as scratch:
            out = scratch / "out"
            out.mkdir()
            with _directory(out) as handle:  # what this names then may be something else later
                facts = execute(
                    store, job.action, scratch, job.limits, by, living=self._workers, virtualenv=built, server=server
                )
                tree = _taken(store, handle, job.action.step)
        return Result(tree.digest, facts, confinement=by.to_json()), built.name if built else None

    def stop(self) -> None:
        for process in list(self._workers):
            process.kill()


def find_fork_server(job: Job, store: Store, by: Confinement) -> ForkServer | None:
    """Return what forks the workers of a job; None where they start afresh.

    A scan takes whatever runs already: by itself it imports too little. Beside it, what opens the source next is begun.
    """
    scratches, action = store.root / "tmp", job.action
    found = None
    if job.virtualenv is None and not action.params.get("gpu"):
        name = preloads.OF_KIND.get(job.next_kind or action.params.get("kind", ""))
        if action.step == "scan":
            found = warm.find_running(scratches)
            if name:
                warm.begin_server(name, scratches, by)
        elif name and action.step in preloads.WARM_STEPS:
            found = warm.find_server(name, scratches, by)
    return found if found and found.fits(job.limits) else None


class Runner:
    """Runs actions against one store. `perform` may be given for work that needs the network (fetching)."""

    def __init__(
        self, store: Store, limits: Limits, on_event: OnEvent = ignore, jobs: int = 1, *, confined: bool = True
    ) -> None:
        self.store, self.limits, self.on_event, self.jobs = store, limits, on_event, jobs
        self.confined = confined  # not: workers run unconfined, and what such a one did is good enough
        self.executor: Executor = LocalExecutor()
        self.executed = 0
        self.steps: dict[str, tuple[Action, Result]] = {}  # every action that was requested, by key

    def __call__(
        self,
        action: Action,
        label: str,
        *,
        perform: Callable[[Path], canonical.JSON] | None = None,
        hashed: Mapping[str, Blob] | None = None,
        virtualenv: Callable[[], Path] | None = None,
        limits: Limits | None = None,
        next_kind: str | None = None,
    ) -> Result:
        """Return the result of `action`, from memory if it is known.

        `perform` does it in this process; what it hashed while writing, it may leave in `hashed`. `virtualenv` returns
        the virtual environment to run in, built only if something runs; None is this Python. `limits` are other ones
        than those of this runner. `next_kind` is the kind of a source that a worker opens next, if one does.
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
            ran = None
            if perform:
                result = self._performed_here(perform, hashed)
            else:
                needed = 0 if limits else self.limits.memory
                job = Job(action, label, limits or self.limits, self.confined, virtualenv, needed, next_kind)
                result, ran = self.executor.perform(job, self.store)
            self.executed += 1
            self.on_event(Finished(label, time.monotonic() - started))
            # Only what is not confined well enough can be known here already.
            known = self.store.remember(action.key, action.to_json(), result, ran, instead=perform is None)
            return self._noted(action, known)

    def _recalled(self, action: Action, by_worker: bool) -> Result | None:
        """Return what is known, unless a worker did it that was confined less than workers here are."""
        known = self.store.recall(action.key)
        if known and by_worker and self.confined:
            return known if known.confinement and Confinement.from_json(known.confinement).is_whole else None
        return known

    def _noted(self, action: Action, result: Result) -> Result:
        self.steps[action.key] = action, result
        return result

    def _performed_here(self, perform: Callable[[Path], canonical.JSON], hashed: Mapping[str, Blob] | None) -> Result:
        with self.store.scratch() as scratch:
            out = scratch / "out"
            out.mkdir()
            facts = perform(out)
            return Result(self.store.ingest(out, hashed).digest, facts)

    def each(self, function: Callable[[Item], Value], items: Iterable[Item]) -> list[Value]:
        """Apply `function` to independent items, `jobs` at a time; results keep the order of the items."""
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                return list(pool.map(function, items))
            except BaseException:  # one failed, or Ctrl-C: do not let the others run to their end unseen
                pool.shutdown(wait=False, cancel_futures=True)
                self.executor.stop()
                raise


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[int]:
    handle = untrusted_files.open_directory(path)
    try:
        yield handle
    finally:
        os.close(handle)


def _taken(store: Store, out: int, step: str) -> Tree:
    """Copy what a worker left into the store. Raises StepError for anything but a few plain files."""
    try:
        return store.take(out, replace(OUTPUT, total=shutil.disk_usage(store.root).free))
    except IntegrityError as error:
        raise StepError(f"step `{step}` left what no output holds: {error.message}", hint=_NO_MODEL) from error


def execute(
    store: Store,
    action: Action,
    scratch: Path,
    limits: Limits,
    by: Confinement,
    *,
    living: set[Running] | None = None,
    virtualenv: Path | None = None,
    server: ForkServer | None = None,
) -> canonical.JSON:
    """Perform one action in a separate process, confined `by`; its files are left in `scratch/out`.

    A top-level function of plain data, so that a local process and a remote worker can call the same one; `living`
    is where the process is listed while it lives, `virtualenv` the virtual environment it runs in (None: this Python),
    `server` what its workers are forked from.
    Raises StepError with the step's message, or with the tail of its log when it died.
    """
    inputs = {role: store.checkout(store.tree(digest), scratch / "in" / role) for role, digest in action.inputs.items()}
    gpu = bool(action.params.get("gpu"))
    bounds = replace(limits, memory=0) if gpu else limits  # CUDA reserves room for all memory of GPUs and host
    work = _Work(action, scratch, by, virtualenv, server)
    listed = set() if living is None else living
    if action.step not in APART:
        return _facts(action.step, work.perform(inputs, bounds, listed, gpu=gpu), limits, filtered=by.seccomp)
    source = inputs.pop(APART[action.step])
    (scratch / "source").mkdir()
    apart = replace(work, scratch=scratch / "source")
    return _together(work, apart, inputs, {"source": _moved(source, apart.scratch)}, bounds, limits, listed, gpu=gpu)


APART = {"measure": "source"}  # steps for which a second worker opens one of the inputs


def _moved(tree: Path, scratch: Path) -> Path:
    (scratch / "in").mkdir()
    return tree.rename(scratch / "in" / tree.name)


@dataclass(frozen=True, slots=True)
class _Work:
    """Where a worker of an action runs: its own scratch, how it is confined, and its environment."""

    action: Action
    scratch: Path
    by: Confinement
    virtualenv: Path | None
    server: ForkServer | None = None

    def perform(
        self,
        inputs: Mapping[str, Path],
        limits: Limits,
        living: set[Running],
        *,
        gpu: bool = False,
        channel: socket.socket | None = None,
        serves: bool = False,
    ) -> Outcome:
        """Run the worker; `channel` leads to another one, which it calls, or which it `serves`."""
        python = (
            environment_interpreter(self.virtualenv, self.scratch / "code") if self.virtualenv else host_interpreter()
        )
        variables = build_environment(self.scratch, pin_numerics(), python.code)
        passed = () if channel is None else (channel,)
        arguments = ("-m", "packager.sandbox.worker", str(self.scratch / "job.json"))
        step = Step(self.scratch, python, arguments, limits, variables, gpu, passed)

        def tell(answer: int) -> None:
            job = {
                "action": self.action.to_json(),
                "inputs": {role: str(path) for role, path in inputs.items()},
                "out": str(self.scratch / "out"),
                "answer": answer,
                "channel": None if channel is None else channel.fileno(),
                "serves": serves,
                "limits": asdict(limits) if self.by.level == "none" else None,  # else they hold already
            }
            with storage_errors(self.scratch):
                (self.scratch / "job.json").write_bytes(json.dumps(job).encode())

        forked = self.server.run(step, self.by, living, tell) if self.server else None
        return run_confined(step, self.by, living, tell) if forked is None else forked


def _together(
    work: _Work,
    apart: _Work,
    inputs: Mapping[str, Path],
    foreign_inputs: Mapping[str, Path],
    bounds: Limits,
    limits: Limits,
    living: set[Running],
    *,
    gpu: bool,
) -> canonical.JSON:
    """Run the worker of a step beside the one that opens the source for it; return the facts of the first.

    They share one socket and nothing else. Where the source's worker fails first, its error is reported.
    """
    ours, theirs = socket.socketpair()
    serving: set[Running] = set()

    def serve() -> Outcome:
        with theirs:  # the caller must see the end, whatever happens here
            return apart.perform(foreign_inputs, limits, serving, channel=theirs, serves=True)

    with ThreadPoolExecutor(1) as pool:
        serving_source = pool.submit(serve)
        try:
            with ours:
                outcome = work.perform(inputs, bounds, living, gpu=gpu, channel=ours)
        finally:
            wait([serving_source], timeout=_LAST_WORDS if serving else 0)
            for process in list(serving):  # still computing results that are no longer needed
                process.kill()
    source = serving_source.result()
    if outcome.code and not outcome.stopped and (source.stopped or source.code not in (0, -signal.SIGKILL)):
        outcome = source
    return _facts(work.action.step, outcome, limits, filtered=work.by.seccomp)


_LAST_WORDS = 5.0  # seconds for the source's worker to end by itself once the channel is closed


def _facts(step: str, outcome: Outcome, limits: Limits, *, filtered: bool = False) -> canonical.JSON:
    """Return the facts of an answer that agrees with how its process ended. Raises what else happened.

    `filtered`: system calls may have been refused to the process.
    """
    log = _tail(outcome.log)
    if outcome.error is not None:
        raise StepError(f"the worker of step `{step}` cannot be confined: {outcome.error}", hint=_CONFINE, log=log)
    if outcome.stopped is not None:
        message, hint = _STOPPED[outcome.stopped]
        wider = tuple(_wider(outcome.stopped, limits))
        raise StepError(message.format(step=step, limits=limits), hint=hint, log=log, edits=wider)
    if outcome.code == errno.ENOSPC:
        raise StorageError(
            f"no space left for the output of step `{step}`", hint="free some space in the store's file system"
        )
    try:
        answer = canonical.load(outcome.answer, limit=MAX_ANSWER)
    except ValueError:
        answer = None
    match outcome.code, answer:
        case 0, {"facts": facts, **more} if not more:
            schema = plugins.load("steps", step).ANSWER
            if problem := next(json_schema.check(facts, schema, "facts"), None):
                raise StepError(f"step `{step}` answered what it cannot find: {problem}", hint=_NO_MODEL, log=log)
            return facts
        case 4, {"error": {"message": str(message), "hint": str() | None as remedy, **needs}}:
            proposed = edits.from_worker(needs.pop("edits", None))
            match needs:
                case {"needs": [str(operator), int(opset), int(wanted)]}:
                    raise TooNewError(operator, opset, wanted)
            remedy = _hint(filtered, message, remedy and remedy[:_LONGEST])
            raise StepError(message[:_LONGEST], hint=remedy, log=log, edits=proposed)
        case 0 | 4, _:
            message = f"step `{step}` ended with status {outcome.code} and without the answer that belongs to it"
            raise StepError(message, hint=_hint(filtered, log, _WHERE), log=log, died=True)
    where = _NATIVE if _FATAL in log else _WHERE
    raise StepError(f"step `{step}` {_death(outcome.code)}", hint=_hint(filtered, log, where), log=log, died=True)


def _hint(filtered: bool, said: str, otherwise: str | None) -> str | None:
    """Return what a worker's words suggest: a call that the filter refuses is an error of the C library."""
    return _CALL if filtered and _NOT_ALLOWED.search(said) else otherwise


_LONGEST = 4000  # characters of a worker's message
_WHERE = "the log above says where"
_FATAL = "Fatal Python error: "  # as faulthandler begins what it writes
_NATIVE = (
    "a library crashed below Python, in the call that the log above names first; "
    "try the model in that library alone, or another version of it"
)
_NOT_ALLOWED = re.compile(f"{os.strerror(errno.EPERM)}|{os.strerror(errno.ENOSYS)}|EPERM|ENOSYS")
_CALL = (
    "the sandbox may have refused a system call (`docs/explanation/security.md`): "
    "if an honest library needs it, report it; "
    "`sandbox: none` in the recipe does without, for models that you trust like your own code"
)
_CONFINE = "`packager doctor` says what this host can do"
_MORE_MEMORY = "raise `limits: {memory: …}` in the recipe, or use a machine with more memory"
_NO_MODEL = "no model needs that; look at what it does before you open it anywhere"
_STOPPED = {
    "time": ("the step did not end within {limits.seconds} seconds", "raise `limits: {minutes: …}` in the recipe"),
    "memory": ("the processes of step `{step}` ran out of memory together", _MORE_MEMORY),
    "disk": ("step `{step}` wrote more than there is room for", "free some space in the store's file system"),
    "processes": ("step `{step}` started more than {limits.processes} processes", _NO_MODEL),
    "files": ("step `{step}` wrote more files, or in deeper directories, than any output has", _NO_MODEL),
    "answer": ("step `{step}` answered more than an answer may hold", _NO_MODEL),
}


def _wider(stopped: str, limits: Limits) -> Iterator[edits.Edit]:
    """Yield the limit that was met, twice as wide."""
    if stopped == "time":
        yield edits.Edit(("limits", "minutes"), max(1, 2 * -(-limits.seconds // 60)))
    if stopped == "memory" and limits.memory:
        yield edits.Edit(("limits", "memory"), f"{max(1, 2 * limits.memory >> 20)}MiB")


def _death(code: int) -> str:
    """Say how a process ended; a status above 128 may be a child's signal."""
    number = -code if code < 0 else code - 128
    if number == signal.SIGKILL:
        return "was killed, most likely because the machine ran out of memory"
    if number == signal.SIGSYS:
        return "made a system call of another architecture, which the sandbox ends"
    if number in {item.value for item in signal.Signals}:
        return f"crashed with {signal.Signals(number).name}"
    return f"failed with status {code}"


def _tail(log: bytes) -> str:
    """Return the end of a log, without what libraries write each time they start in a confined process.

    Where faulthandler wrote a stack it is the beginning of that, because the innermost call comes first.
    """
    crash = log.rfind(_FATAL.encode())
    end = log[-LOG_TAIL:] if crash < 0 else log[max(crash - LOG_TAIL // 2, 0) :][:LOG_TAIL]
    rows = end.decode("utf-8", "replace").splitlines()
    return "\n".join(row for row in rows if not _NOISE.match(row)).strip()

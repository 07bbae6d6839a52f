# SPDX-License-Identifier: Apache-2.0
"""The model behind the process that serves: a session whose runs happen in processes of their own.

Native code of a runtime may crash, and the kernel may kill what takes too much memory. Either ends a worker, not the
process that holds the clients' connections: a run changes nothing, so it is asked of another worker, or of the one
that takes the dead one's place. A run in which two workers died is not tried a third time: 500, and the log says so;
one that several requests shared is then repeated one request at a time. A worker that dies is replaced at once, one
that dies young again and again with growing pauses.

Each worker does one run at a time and has a lane to it and one back (`exchange`). Weights that the runtime reads in
place are in memory once, as pages of their file; what it packs anew (ONNX Runtime: the matrices of MatMul and Gemm)
is in every worker.
"""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from packager.server.admission.gate import unready
from packager.server.config import Config
from packager.server.errors import RequestError, StartError
from packager.server.execution import shared_memory
from packager.server.execution.session import check
from packager.server.execution.shared_memory import Garbled, Receiver, Sender
from packager.server.execution.warm_up import Trial
from packager.server.protocol.tensors import Array
from packager.server.telemetry.logs import event

_MOST_DEATHS = 2
_CHANCES = 3  # to start, for each of the first workers
_LONG_LIFE = 10.0  # seconds: a worker that lived so long did not die of its start
_MOST_PAUSE = 30.0
_PATIENCE = 10.0  # seconds without any worker before requests are refused rather than kept
_KEPT = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH")
_KEPT_GROUPS = ("CUDA_", "NVIDIA_", "NCCL_", "OMP_", "MKL_", "OPENBLAS_", "ORT_")
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); from packager.server.execution.worker import main; main(sys.argv[2:])"
)


class Failed(Exception):
    """A run failed in its worker, which goes on; the message is the runtime's."""


class Stillborn(StartError):
    """A worker died while it loaded the model, which says nothing about the next one."""


class Gone(Exception):
    """A worker died. `held`: with the request in its hands, not before it had read it."""

    def __init__(self, *, held: bool) -> None:
        super().__init__()
        self.held = held


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output as the worker's runtime sees it."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True, slots=True)
class How:
    """How to run workers: `count` of them with `threads` threads per run, and an environment to choose from."""

    count: int
    threads: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    huge_pages: bool = False

    @property
    def shown(self) -> dict[str, str]:
        """Return what of the environment a runtime may need; the rest may be secret."""
        return {
            name: value for name, value in self.environment.items() if name in _KEPT or name.startswith(_KEPT_GROUPS)
        }


class Worker:
    """One process with the model loaded and tried. Making one raises StartError when that does not work.

    It belongs to one thread at a time, which closes it when it is gone.
    """

    def __init__(self, config: Config, how: How) -> None:
        self.started = time.monotonic()
        try:
            self._process = self._start(config, how)
        except OSError as error:
            raise StartError(f"no process for the model can be started: {error.strerror}") from None
        self.pid = self._process.pid
        try:
            self._greet(config)
        except BaseException:
            self.close()
            raise

    def _start(self, config: Config, how: How) -> subprocess.Popen[bytes]:
        there, back = shared_memory.memory(), shared_memory.memory()
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sender, self._receiver = Sender(self._line, there), Receiver(self._line, back)
        with theirs:
            passed = (theirs.fileno(), there.fileno(), back.fileno())
            told = (*passed, config.runtime, config.artefact, how.threads, config.device, int(how.huge_pages))
            return subprocess.Popen(
                [sys.executable, "-I", "-c", _PROGRAM, Path(__file__).parents[3], *map(str, told)],
                stdin=subprocess.DEVNULL,
                env=how.shown,
                pass_fds=passed,
            )

    def _greet(self, config: Config) -> None:
        """Wait until the model is loaded, hold it against what is promised, and run it once."""
        try:
            head, _ = self._received()
            if "error" in head:
                raise StartError(head["error"], hint=head["hint"])
            self.provider, self.version = head["provider"], head["version"]
            self.inputs, self.outputs = (
                [Port(name, dtype, tuple(shape)) for name, dtype, shape in head[role]] for role in ("inputs", "outputs")
            )
            check(self.inputs, self.outputs, config.interface)
            self.ask(Trial.of(config).smallest())
        except Failed as error:
            raise StartError(f"the model fails on its smallest inputs: {str(error)[:500]}") from None
        except Gone:
            raise Stillborn(f"the process that loads the model {self.wait()}") from None

    def ask(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Run the model there. Raises Failed, and Gone."""
        try:
            self._sender.send({"names": list(feeds)}, list(feeds.values()))
        except (BrokenPipeError, ConnectionResetError):
            raise Gone(held=False) from None
        head, arrays = self._received()
        results = [array.copy() for array in arrays]
        self._sender.trim()
        if "error" in head:
            raise Failed(head["error"])
        return results

    def _received(self) -> tuple[shared_memory.Head, list[Array]]:
        try:
            return self._receiver.receive()
        except ConnectionResetError:  # what the kernel says of a line that was closed with a message unread in it
            raise Gone(held=False) from None
        except EOFError:
            raise Gone(held=True) from None
        except (OSError, Garbled) as error:
            event("worker makes no sense", logging.ERROR, pid=self.pid, reason=str(error)[:500])
            self._process.kill()
            raise Gone(held=True) from None

    def wait(self) -> str:
        """Wait until it has ended; return how."""
        code = self._process.wait()
        if code >= 0:
            return f"ended with code {code}"
        known = {number.value: number.name for number in signal.Signals}
        return f"was ended by {known.get(-code, f'signal {-code}')}"

    def kill(self) -> None:
        """End it; who holds it finds out."""
        self._process.kill()

    def close(self) -> None:
        """End it, and close the line to it."""
        self._process.kill()
        self._process.wait()
        self._line.close()


class Workers:
    """A session: `run` may be called from as many threads as wish; more than there are workers wait their turn.

    Making one raises StartError unless every worker starts; one that dies on its way gets two more chances, for the
    kernel or an operator may have ended it. `lost` is called for each that ends unasked.
    """

    def __init__(self, config: Config, how: How, lost: Callable[[], object] = int) -> None:
        self._config, self._how, self._lost = config, how, lost
        with ThreadPoolExecutor(how.count) as pool:
            first = list(pool.map(lambda _: self._first(_CHANCES), range(how.count)))
        self.inputs, self.outputs = first[0].inputs, first[0].outputs
        self.provider, self.version = first[0].provider, first[0].version
        self._living, self._idle = set(first), list(first)
        self._alone = 0.0  # when the last worker died, where none lives
        self._changed = threading.Condition()
        self._closed = threading.Event()
        for worker in first:
            threading.Thread(target=self._keep, args=(worker,), name="worker", daemon=True).start()

    def _first(self, chances: int) -> Worker:
        try:
            return Worker(self._config, self._how)
        except Stillborn as error:
            if chances == 1:
                raise
            self._lost()
            event("worker does not start", logging.WARNING, reason=error.message)
            return self._first(chances - 1)

    @property
    def alive(self) -> bool:
        """Whether any worker is there to answer."""
        return bool(self._living)

    def run(self, feeds: dict[str, Array]) -> list[Array]:
        """Run the model in some worker. Raises Failed, and RequestError with status 500 or 503."""
        deaths = 0
        while deaths < _MOST_DEATHS:
            worker = self._take()
            try:
                results = worker.ask(feeds)
            except Gone as gone:
                worker.close()
                deaths += gone.held
                continue
            except BaseException:
                self._give(worker)
                raise
            self._give(worker)
            return results
        shapes = {name: [array.dtype.name, *array.shape] for name, array in feeds.items()}
        event("run given up", logging.ERROR, reason=f"{deaths} workers died in it", inputs=shapes)
        raise RequestError(f"{deaths} processes died while they ran this request; it is not tried again", status=500)

    def _take(self) -> Worker:
        with self._changed:
            while not self._idle:
                if self._closed.is_set() or not (self._living or time.monotonic() < self._alone + _PATIENCE):
                    raise unready("no process that runs the model is alive")
                self._changed.wait(None if self._living else _PATIENCE)
            return self._idle.pop()

    def _give(self, worker: Worker) -> None:
        with self._changed:
            self._idle.append(worker)
            self._changed.notify()

    def _keep(self, worker: Worker) -> None:
        """See to it that a worker lives in this place, until closed."""
        young = 0
        while True:
            how = worker.wait()
            lived = time.monotonic() - worker.started
            self._bury(worker)
            if self._closed.is_set():
                return
            self._lost()
            event("worker ended unasked", logging.WARNING, pid=worker.pid, how=how, lived_s=round(lived, 1))
            young = 0 if lived > _LONG_LIFE else young + 1
            successor = self._successor(young)
            if successor is None:
                return
            worker = successor

    def _bury(self, worker: Worker) -> None:
        with self._changed:
            self._living.discard(worker)
            self._alone = time.monotonic()
            if worker in self._idle:  # else who holds it finds out and closes it
                self._idle.remove(worker)
                worker.close()
            self._changed.notify_all()

    def _successor(self, young: int) -> Worker | None:
        """Start a worker, and again until one starts; None when closed meanwhile."""
        while not self._closed.wait(0.0 if young < 2 else min(2.0 ** (young - 3), _MOST_PAUSE)):
            try:
                worker = Worker(self._config, self._how)
            except StartError as error:
                event("worker does not start", logging.ERROR, reason=error.message)
                young = max(young, 1) + 1
                continue
            with self._changed:
                self._living.add(worker)
                self._idle.append(worker)
                if self._closed.is_set():
                    worker.kill()
                self._changed.notify_all()
            event("worker replaced", pid=worker.pid, took_s=round(time.monotonic() - worker.started, 3))
            return worker
        return None

    def close(self) -> None:
        """End all workers; runs that wait are refused."""
        with self._changed:
            self._closed.set()
            for worker in self._living:
                worker.kill()
            self._changed.notify_all()

# SPDX-License-Identifier: Apache-2.0
"""A session whose runs happen in worker processes, which the pool starts, watches and replaces.

Native code of a runtime may crash, and the kernel may kill a process that takes too much memory. Either ends a worker,
not the server process that holds the clients' connections: a run has no side effects, so it is repeated on another
worker or on the replacement. A run in which two workers died is not tried a third time: 500, and the log says so;
one that several requests shared is then repeated one request at a time. A worker that dies is replaced at once, and
with growing pauses if replacements die early as well.

Each worker does one run at a time and has shared memory for each direction (`shared_memory`). Weights that the runtime
maps from their file are in memory once; what it repacks (ONNX Runtime: the matrices of MatMul and Gemm) is in every
worker.
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

from packager.server.admission.admission import not_ready_error
from packager.server.config import Config
from packager.server.errors import RequestError, StartError
from packager.server.execution import shared_memory
from packager.server.execution.session import check_ports
from packager.server.execution.shared_memory import MalformedMessageError, Receiver, Sender
from packager.server.execution.warm_up import WarmUpInputs
from packager.server.protocol.tensors import Array
from packager.server.telemetry.logs import log_event

_MAX_DEATHS = 2
_START_ATTEMPTS = 3  # for each of the first workers
_LONG_LIFE = 10.0  # seconds: a worker that lived this long did not die early
_MAX_PAUSE = 30.0
_NO_WORKER_SECONDS = 10.0  # seconds without any worker after which requests are refused
_KEPT = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH")
_KEPT_GROUPS = ("CUDA_", "NVIDIA_", "NCCL_", "OMP_", "MKL_", "OPENBLAS_", "ORT_")
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); from packager.server.execution.worker import main; main(sys.argv[2:])"
)


class RunFailedError(Exception):
    """A run failed in its worker, which keeps working; the message is the runtime's."""


class WorkerStartError(StartError):
    """A worker died while it loaded the model; the next one may succeed."""


class WorkerLostError(Exception):
    """A worker died. `had_request`: after it had read the request."""

    def __init__(self, *, had_request: bool) -> None:
        super().__init__()
        self.had_request = had_request


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of the worker's runtime."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How to start workers: `count` of them with `threads` threads per run, and the environment to select from."""

    count: int
    threads: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    huge_pages: bool = False

    @property
    def passed_environment(self) -> dict[str, str]:
        """Return the variables that a runtime may need; the others may be secret."""
        return {
            name: value for name, value in self.environment.items() if name in _KEPT or name.startswith(_KEPT_GROUPS)
        }


class Worker:
    """One process with the model loaded and checked. The constructor raises StartError if that fails.

    It is used by one thread at a time, which closes it when the process is gone.
    """

    def __init__(self, config: Config, settings: WorkerSettings) -> None:
        self.started = time.monotonic()
        try:
            self._process = self._start(config, settings)
        except OSError as error:
            raise StartError(f"no process for the model can be started: {error.strerror}") from None
        self.pid = self._process.pid
        try:
            self._check_model(config)
        except BaseException:
            self.close()
            raise

    def _start(self, config: Config, settings: WorkerSettings) -> subprocess.Popen[bytes]:
        inbound, outbound = shared_memory.create_memory(), shared_memory.create_memory()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sender, self._receiver = Sender(self._channel, inbound), Receiver(self._channel, outbound)
        with theirs:
            passed = (theirs.fileno(), inbound.fileno(), outbound.fileno())
            arguments = (
                *passed,
                config.runtime,
                config.artefact,
                settings.threads,
                config.device,
                int(settings.huge_pages),
            )
            return subprocess.Popen(
                [sys.executable, "-I", "-c", _PROGRAM, Path(__file__).parents[3], *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                env=settings.passed_environment,
                pass_fds=passed,
            )

    def _check_model(self, config: Config) -> None:
        """Wait until the model is loaded, check it against the interface, and run it once."""
        try:
            header, _ = self._received()
            if "error" in header:
                raise StartError(header["error"], hint=header["hint"])
            self.provider, self.version = header["provider"], header["version"]
            self.inputs, self.outputs = (
                [Port(name, dtype, tuple(shape)) for name, dtype, shape in header[role]]
                for role in ("inputs", "outputs")
            )
            check_ports(self.inputs, self.outputs, config.interface)
            self.run(WarmUpInputs.of(config).smallest())
        except RunFailedError as error:
            raise StartError(f"the model fails on its smallest inputs: {str(error)[:500]}") from None
        except WorkerLostError:
            raise WorkerStartError(f"the process that loads the model {self.wait()}") from None

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Run the model in the worker. Raises RunFailedError and WorkerLostError."""
        try:
            self._sender.send({"names": list(feeds)}, list(feeds.values()))
        except (BrokenPipeError, ConnectionResetError):
            raise WorkerLostError(had_request=False) from None
        header, arrays = self._received()
        results = [array.copy() for array in arrays]
        self._sender.trim()
        if "error" in header:
            raise RunFailedError(header["error"])
        return results

    def _received(self) -> tuple[shared_memory.Header, list[Array]]:
        try:
            return self._receiver.receive()
        except ConnectionResetError:  # the channel was closed with an unread message in it
            raise WorkerLostError(had_request=False) from None
        except EOFError:
            raise WorkerLostError(had_request=True) from None
        except (OSError, MalformedMessageError) as error:
            log_event("worker makes no sense", logging.ERROR, pid=self.pid, reason=str(error)[:500])
            self._process.kill()
            raise WorkerLostError(had_request=True) from None

    def wait(self) -> str:
        """Wait until the process has ended; return how."""
        code = self._process.wait()
        if code >= 0:
            return f"ended with code {code}"
        known = {number.value: number.name for number in signal.Signals}
        return f"was ended by {known.get(-code, f'signal {-code}')}"

    def kill(self) -> None:
        """Kill the process; the thread that uses it gets WorkerLostError."""
        self._process.kill()

    def close(self) -> None:
        """Kill the process and close its channel."""
        self._process.kill()
        self._process.wait()
        self._channel.close()


class WorkerPool:
    """A session: `run` may be called from any number of threads; they wait while all workers are busy.

    The constructor raises StartError unless every worker starts; a worker that dies while it starts gets two more
    attempts, because the kernel or an operator may have ended it. `on_lost` is called for each unexpected end.
    """

    def __init__(self, config: Config, settings: WorkerSettings, on_lost: Callable[[], object] = int) -> None:
        self._config, self._settings, self._on_lost = config, settings, on_lost
        with ThreadPoolExecutor(settings.count) as pool:
            first = list(pool.map(lambda _: self._start_first(_START_ATTEMPTS), range(settings.count)))
        self.inputs, self.outputs = first[0].inputs, first[0].outputs
        self.provider, self.version = first[0].provider, first[0].version
        self._living, self._idle = set(first), list(first)
        self._empty_since = 0.0  # when the last worker died, if none is alive
        self._changed = threading.Condition()
        self._closed = threading.Event()
        for worker in first:
            threading.Thread(target=self._supervise, args=(worker,), name="worker", daemon=True).start()

    def _start_first(self, attempts: int) -> Worker:
        try:
            return Worker(self._config, self._settings)
        except WorkerStartError as error:
            if attempts == 1:
                raise
            self._on_lost()
            log_event("worker does not start", logging.WARNING, reason=error.message)
            return self._start_first(attempts - 1)

    @property
    def alive(self) -> bool:
        """Return whether any worker is alive."""
        return bool(self._living)

    def run(self, feeds: dict[str, Array]) -> list[Array]:
        """Run the model in any worker. Raises RunFailedError, and RequestError with status 500 or 503."""
        deaths = 0
        while deaths < _MAX_DEATHS:
            worker = self._claim_worker()
            try:
                results = worker.run(feeds)
            except WorkerLostError as error:
                worker.close()
                deaths += error.had_request
                continue
            except BaseException:
                self._return_worker(worker)
                raise
            self._return_worker(worker)
            return results
        shapes = {name: [array.dtype.name, *array.shape] for name, array in feeds.items()}
        log_event("run given up", logging.ERROR, reason=f"{deaths} workers died in it", inputs=shapes)
        raise RequestError(f"{deaths} processes died while they ran this request; it is not tried again", status=500)

    def _claim_worker(self) -> Worker:
        with self._changed:
            while not self._idle:
                given_up = not self._living and time.monotonic() >= self._empty_since + _NO_WORKER_SECONDS
                if self._closed.is_set() or given_up:
                    raise not_ready_error("no process that runs the model is alive")
                self._changed.wait(None if self._living else _NO_WORKER_SECONDS)
            return self._idle.pop()

    def _return_worker(self, worker: Worker) -> None:
        with self._changed:
            self._idle.append(worker)
            self._changed.notify()

    def _supervise(self, worker: Worker) -> None:
        """Replace `worker` whenever it ends, until the pool is closed."""
        early_deaths = 0
        while True:
            how = worker.wait()
            lifetime = time.monotonic() - worker.started
            self._remove_worker(worker)
            if self._closed.is_set():
                return
            self._on_lost()
            log_event("worker ended unasked", logging.WARNING, pid=worker.pid, how=how, lived_s=round(lifetime, 1))
            early_deaths = 0 if lifetime > _LONG_LIFE else early_deaths + 1
            successor = self._start_replacement(early_deaths)
            if successor is None:
                return
            worker = successor

    def _remove_worker(self, worker: Worker) -> None:
        with self._changed:
            self._living.discard(worker)
            self._empty_since = time.monotonic()
            if worker in self._idle:  # otherwise the thread that uses it closes it
                self._idle.remove(worker)
                worker.close()
            self._changed.notify_all()

    def _start_replacement(self, early_deaths: int) -> Worker | None:
        """Start a worker, again until one starts; None if the pool is closed meanwhile."""
        while not self._closed.wait(0.0 if early_deaths < 2 else min(2.0 ** (early_deaths - 3), _MAX_PAUSE)):
            try:
                worker = Worker(self._config, self._settings)
            except StartError as error:
                log_event("worker does not start", logging.ERROR, reason=error.message)
                early_deaths = max(early_deaths, 1) + 1
                continue
            with self._changed:
                self._living.add(worker)
                self._idle.append(worker)
                if self._closed.is_set():
                    worker.kill()
                self._changed.notify_all()
            log_event("worker replaced", pid=worker.pid, took_s=round(time.monotonic() - worker.started, 3))
            return worker
        return None

    def close(self) -> None:
        """Kill all workers; waiting runs are refused."""
        with self._changed:
            self._closed.set()
            for worker in self._living:
                worker.kill()
            self._changed.notify_all()

# SPDX-License-Identifier: Apache-2.0
"""Run the command line in processes forked from one that has imported it: real processes without a start of Python.

A tenth to half a second of every call is importing the same modules again. The parent has one thread, has imported what
the verbs import (nothing heavy: `tests/test_layers.py`), and has called nothing; each call is a fork of it, with the
arguments, directory, environment and streams of its own, and ends as a process ends. What is about the start itself,
about signals or about what the kernel shows of a process (its command line, its first environment) starts Python; with
PACKAGER_TEST_STARTS in the environment, as in `make test-all`, every call does.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

import packager

APART = ("exporters", "pipelines", "policies", "runtimes", "scanners", "server", "sources", "steps")
"""Rooms of plug-ins and of other processes: a call imports what it needs of them."""
_STARTING = ("PYTHON", "LC_", "LANG", "TZ", "MALLOC")  # read while Python starts
_LIMIT = 1 << 17  # bytes of a request: below what a packet may have
_ROOT = Path(__file__).resolve().parents[2]


_CACHES = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def variables(home: Path) -> dict[str, str]:
    """Return the environment of a call: a home directory, and how pip, uv and TLS are set up on this machine.

    pip and uv keep what they download where they always do: in a home of its own, each call would download it again.
    """
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_", "SSL_"))}
    caches = {"PIP_CACHE_DIR": str(_CACHES / "pip"), "UV_CACHE_DIR": str(_CACHES / "uv")}
    return {"PATH": os.environ["PATH"], "HOME": str(home), **caches, **kept}


class Forks:
    """The parent process of this test run, started with the first call."""

    def __init__(self) -> None:
        self.used = 0.0  # processor seconds of all calls
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None

    def run(
        self, arguments: Sequence[str], directory: Path, environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run `packager` with these arguments, as `subprocess.run` with captured text does."""
        request = json.dumps([list(arguments), str(directory), dict(environment)]).encode()
        command = [sys.executable, "-m", "packager", *arguments]
        starting = any(name.startswith(_STARTING) for name in environment)
        if starting or len(request) > _LIMIT or "PACKAGER_TEST_STARTS" in os.environ:
            return subprocess.run(
                command, cwd=directory, env=dict(environment), capture_output=True, text=True, check=False
            )
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            read, write = os.pipe()
            try:
                with open(os.devnull, "rb") as nothing:
                    streams = [nothing.fileno(), out.fileno(), err.fileno(), write]
                    socket.send_fds(self._started(), [request], streams)
            finally:
                os.close(write)
            with os.fdopen(read, "rb") as answer:
                code, seconds = answer.read().split()
                self.used += float(seconds)
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode())
        return subprocess.CompletedProcess(command, int(code), *texts)

    def _started(self) -> socket.socket:
        with self._lock:
            if self._requests is None:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
                with theirs:
                    self._process = subprocess.Popen(
                        [sys.executable, "-m", "tests.support.forks", str(theirs.fileno())],
                        cwd=_ROOT,
                        env=kept,
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        pass_fds=[theirs.fileno()],
                    )
                self._requests = ours
            return self._requests


RUNNER = Forks()
"""That of this test run; its process ends with the run, because nothing holds the other end of its socket then."""


class Refusing:
    """A finder that refuses libraries which start threads when they are imported; modules that need them wait."""

    names = frozenset({"numpy", "onnx", "onnxruntime", "torch", "pandas", "sklearn", "openvino", "grpc"})

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"`{name}` is imported in forks", name=name)


def prepare() -> None:
    """Import what the verbs import, and start no thread."""
    sys.meta_path.insert(0, refusing := Refusing())  # type: ignore[arg-type]
    for room in pkgutil.iter_modules(packager.__path__):
        if room.name in (*APART, "__main__"):
            continue
        module = importlib.import_module(f"packager.{room.name}")
        for found in pkgutil.walk_packages(getattr(module, "__path__", []), f"{module.__name__}."):
            if not found.name.endswith("__main__"):
                try:
                    importlib.import_module(found.name)
                except ModuleNotFoundError as error:
                    if (error.name or "").partition(".")[0] not in Refusing.names:
                        raise
    sys.meta_path.remove(refusing)  # type: ignore[arg-type]
    assert len(os.listdir("/proc/self/task")) == 1, "a fork keeps one thread only"
    gc.collect()
    gc.freeze()  # else every fork copies every page that a collection touches


def serve(requests: socket.socket) -> list[str] | None:
    """Fork for every request until there are no more; return None here, in a fork the arguments it is to run."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel takes what a waiting fork leaves
    first = dict(os.environ)
    while True:
        data, streams, _, _ = socket.recv_fds(requests, _LIMIT, 4)
        if not data:
            return None
        if os.fork() == 0:
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            child = os.fork()
            if child == 0:
                return _become(json.loads(data), streams, first)
            with os.fdopen(streams.pop(), "wb") as answer:
                for stream in streams:
                    os.close(stream)
                _, status, usage = os.wait4(child, 0)
                answer.write(f"{os.waitstatus_to_exitcode(status)} {usage.ru_utime + usage.ru_stime}".encode())
            os._exit(0)
        for stream in streams:
            os.close(stream)


def _become(request: list, streams: list[int], first: Mapping[str, str]) -> list[str]:
    """Take over the directory, the environment and the streams of a call; return its arguments."""
    arguments, directory, environment = request
    os.close(streams[3])
    for number, stream in enumerate(streams[:3]):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(directory)
    coerced = {name: first[name] for name in ("LC_CTYPE",) if name in first}  # as Python itself does where it is unset
    os.environ.clear()
    os.environ.update({**coerced, **environment})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return arguments


def perform(arguments: Sequence[str]) -> int:
    """Run the program and what runs at its end; return its exit code."""
    from packager.cli import main

    try:
        code = main(arguments)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # as Python ends: pools hear of it, then their threads are waited for
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    prepare()
    with contextlib.closing(socket.socket(fileno=int(sys.argv[1]))) as channel:
        taken = serve(channel)
    if taken is not None:
        os._exit(perform(taken))  # without taking apart a thousand modules

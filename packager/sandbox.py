# SPDX-License-Identifier: Apache-2.0
"""Confine the process that opens foreign models: no network, no home directory, no secrets, bounded memory.

With bubblewrap the worker sees a read-only system, the Python it runs on, and its own scratch; nothing else of the
user exists for it. Without bubblewrap only the network is cut (a network namespace of its own), which is enough for
formats that hold data and not enough for those that execute code: these are refused.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import resource
import shutil
import signal
import site
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packager.errors import StepError

_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/opt", "/sys", "/etc/ld.so.cache", "/etc/ld.so.conf",
           "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime", "/etc/passwd", "/etc/nsswitch.conf")  # fmt: skip
_PACKAGES = ("packager", "packager.runtimes", "packager.policies", "packager.templates")
_PREFIX = "/usr/local/bin:/usr/bin:/bin"
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG = 1  # die when the program that started us dies


@dataclass(frozen=True, slots=True)
class Limits:
    """What one worker may use: `memory` in bytes of address space (0: no limit), `seconds` of wall time."""

    memory: int
    seconds: int


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The Python a worker runs on: the program, the directories it must see, and where it finds our code.

    `code` is for the module search path; empty where this program is installed for that Python.
    """

    program: str
    places: tuple[str, ...]
    code: str = ""


def host() -> Interpreter:
    """Return the Python that runs this."""
    places = [sys.prefix, sys.base_prefix, *site.getsitepackages(), *_our_places()]
    return Interpreter(sys.executable, tuple(str(Path(place).resolve()) for place in places))


def of_environment(place: Path, code: Path) -> Interpreter:
    """Return the Python of a virtual environment that knows nothing of us: our code is linked into `code`."""
    place = place.resolve()  # a link on the way there would not be seen inside
    settings = dict(line.split(" = ", 1) for line in (place / "pyvenv.cfg").read_text().splitlines() if " = " in line)
    base = Path(settings["home"]).resolve().parent
    program = place / "bin" / "python"
    places = [place, base, program.resolve().parent.parent, *(Path(item).resolve() for item in _our_places())]
    _link_code(code)
    return Interpreter(str(program), tuple(map(str, dict.fromkeys(places))), str(code))


def _link_code(code: Path) -> None:
    """Lay our packages out as an installation would, whatever lies where in a source tree."""
    own = code / "packager"
    own.mkdir(parents=True)
    for entry in Path(str(next(iter(importlib.import_module("packager").__path__)))).iterdir():
        (own / entry.name).symlink_to(entry.resolve())
    for name in _PACKAGES[1:]:
        link = own / name.rpartition(".")[2]
        if not link.is_symlink():
            link.symlink_to(Path(next(iter(importlib.import_module(name).__path__))).resolve())


def default_limits() -> Limits:
    """Return all of the machine's memory, and half an hour."""
    return Limits(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), 1800)


def bubblewrap() -> str | None:
    """Return the path of bubblewrap, if this machine has it."""
    return shutil.which("bwrap", path=_PREFIX)


def command(
    scratch: Path, arguments: Sequence[str], variables: Mapping[str, str], python: Interpreter, *, executes: bool,
    gpu: bool = False,
) -> list[str]:  # fmt: skip
    """Return the command line that runs `python` with `arguments`, confined to `scratch`.

    `gpu` shows the devices of NVIDIA's driver to it; nothing else may see them, so that no artefact depends on them.

    `variables` is its whole environment; it is also told to bubblewrap, because the loader of a set-uid bubblewrap
    would drop some of them (GLIBC_TUNABLES).

    `executes` says that opening the model runs its code. Raises StepError when that cannot be confined here.
    """
    line = [python.program, "-s", "-P", "-B", *arguments]  # not -I: that would ignore PYTHONHASHSEED
    wrapper = bubblewrap()
    if wrapper is not None:
        told = [word for name, value in variables.items() for word in ("--setenv", name, value)]
        return [wrapper, *_wrapping(scratch, python.places), *(_gpu_devices() if gpu else ()), *told, "--", *line]
    if executes:
        raise StepError(
            "opening this model runs its code, and nothing here can confine it",
            hint="install bubblewrap (`apt-get install bubblewrap`), or log the model in a format that is data",
        )
    return line


def _wrapping(scratch: Path, places: Sequence[str]) -> list[str]:
    options = ["--unshare-all", "--die-with-parent", "--new-session", "--proc", "/proc", "--dev", "/dev"]
    options += ["--hostname", "localhost"]  # no name of the host can reach a file, and this one is known everywhere
    options += ["--tmpfs", "/tmp"]  # noqa: S108 - before the binds: what they name may lie below it
    for place in dict.fromkeys((*_SYSTEM, *_java(), *places)):
        options += ["--ro-bind-try", place, place]
    hosts = scratch / "hosts"
    hosts.write_text("127.0.0.1 localhost\n::1 localhost\n", "utf-8")
    options += ["--ro-bind", str(hosts), "/etc/hosts"]
    return [*options, "--bind", str(scratch), str(scratch), "--chdir", str(scratch)]


def _java() -> list[str]:
    """Return where distributions keep the settings of Java runtimes, which their directories link to."""
    return [str(path) for path in sorted(Path("/etc").glob("java*"))]


def _gpu_devices() -> list[str]:
    found = sorted(str(path) for path in Path("/dev").glob("nvidia*"))
    return [word for place in found for word in ("--dev-bind-try", place, place)]


def _our_places() -> list[str]:
    """Return the directories this program lives in, editable installs included."""
    return [str(place) for name in _PACKAGES for place in importlib.import_module(name).__path__]


def environment(scratch: Path, pinned: Mapping[str, str], code: str = "") -> dict[str, str]:
    """Return the whole environment of a worker. Nothing is inherited: secrets live in environments."""
    home = str(scratch / "home")
    found = {"PYTHONPATH": code} if code else {}
    return {"PATH": _PREFIX, "HOME": home, "TMPDIR": home, "XDG_CACHE_HOME": home, **found, **pinned}


def apply_limits(limits: Limits, *, wrapped: bool) -> None:
    """Confine the calling process for good: memory, core dumps, and, unless bubblewrap did it, the network."""
    if limits.memory:
        resource.setrlimit(resource.RLIMIT_AS, (limits.memory, limits.memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not wrapped:
        _isolate()


def _isolate() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if libc.unshare(_CLONE_NEWNET) == 0 or libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0:
        return
    raise StepError(
        f"cannot cut the worker's network: {os.strerror(ctypes.get_errno())}",
        hint="install bubblewrap, or allow user namespaces (`sysctl kernel.unprivileged_userns_clone=1`)",
    )

# SPDX-License-Identifier: Apache-2.0
"""Confine the process that opens foreign models: no network, no home directory, no secrets, bounded memory.

The worker sees a read-only system, the Python it runs on, and its own scratch; nothing else of the user exists for it,
and a filter refuses the system calls that sandboxes are left with. Bubblewrap does it where it works, else namespaces
that this program enters by itself; where neither works, nothing foreign is opened, unless the recipe says
`sandbox: none`. Which of them it was is remembered with the result of every step.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import resource
import shutil
import site
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packager.canonical import JSON
from packager.errors import StepError
from packager.isolation import namespaces, seccomp

_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/opt", "/sys", "/etc/ld.so.cache", "/etc/ld.so.conf",
           "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime", "/etc/passwd", "/etc/nsswitch.conf")  # fmt: skip
_PACKAGES = ("packager", "packager.runtimes", "packager.policies", "packager.templates")
_PREFIX = "/usr/local/bin:/usr/bin:/bin"
LEVELS = ("none", "namespaces", "bubblewrap")  # from the weakest to the strongest


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


@dataclass(frozen=True, slots=True)
class Confinement:
    """How a worker is confined: by what, and whether its system calls are filtered."""

    level: str
    seccomp: bool

    def to_json(self) -> JSON:
        return {"level": self.level, "seccomp": self.seccomp}

    @staticmethod
    def from_json(value: JSON) -> Confinement:
        return Confinement(str(value["level"]), bool(value["seccomp"]))

    @staticmethod
    def weakest(found: Sequence[Confinement]) -> Confinement | None:
        """Return what holds for all of them; None if there are none."""
        if not found:
            return None
        return Confinement(min((item.level for item in found), key=LEVELS.index), all(item.seccomp for item in found))


NONE = Confinement("none", seccomp=False)


@functools.cache
def available() -> Confinement:
    """Return the strongest confinement that works here, found by trying; NONE if none does."""
    filtered = seccomp.program() is not None
    if bubblewrap():
        return Confinement("bubblewrap", filtered)
    return Confinement("namespaces", filtered) if namespaces.work(_view(host().places)) else NONE


@functools.cache
def bubblewrap() -> str | None:
    """Return the path of bubblewrap, if this machine has it and lets it work (containers often do not)."""
    found = shutil.which("bwrap", path=_PREFIX)
    if found is None:
        return None
    trial = [found, "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"]
    return found if subprocess.run(trial, capture_output=True, check=False).returncode == 0 else None


def choose(*, wanted: bool) -> Confinement:
    """Return how workers are confined here; not `wanted`, not at all. Raises StepError where nothing can do it."""
    found = available() if wanted else NONE
    if wanted and found == NONE:
        raise StepError(
            "the worker that opens the model cannot be confined here",
            hint="install bubblewrap (`apt-get install bubblewrap`) and allow user namespaces; `sandbox: none` in the "
            "recipe does without, for models that you trust like your own code",
        )
    return found


@contextlib.contextmanager
def filter_file() -> Iterator[int | None]:
    """Give a descriptor that bubblewrap reads the filter from; None where there is no filter."""
    code = seccomp.program()
    if code is None:
        yield None
        return
    handle = os.memfd_create("seccomp")
    try:
        os.write(handle, code)
        os.lseek(handle, 0, os.SEEK_SET)
        yield handle
    finally:
        os.close(handle)


def command(
    scratch: Path, arguments: Sequence[str], variables: Mapping[str, str], python: Interpreter, by: Confinement,
    *, calls: int | None, gpu: bool = False,
) -> list[str]:  # fmt: skip
    """Return the command line that runs `python` with `arguments`, confined to `scratch`.

    `calls` is the descriptor of the filter (`filter_file`), to be passed on. `gpu` shows the devices of NVIDIA's driver
    to it; nothing else may see them, so that no artefact depends on them.

    `variables` is its whole environment; it is also told to bubblewrap, because the loader of a set-uid bubblewrap
    would drop some of them (GLIBC_TUNABLES).
    """
    line = [python.program, "-s", "-P", "-B", *arguments]  # not -I: that would ignore PYTHONHASHSEED
    if by.level != "bubblewrap":
        return line  # the worker confines itself
    told = [word for name, value in variables.items() for word in ("--setenv", name, value)]
    devices = [word for place in (gpu_devices() if gpu else ()) for word in ("--dev-bind-try", place, place)]
    told += ["--seccomp", str(calls)] if calls is not None else []
    return [str(bubblewrap()), *_wrapping(scratch, python.places), *devices, *told, "--", *line]


def _wrapping(scratch: Path, places: Sequence[str]) -> list[str]:
    options = ["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    options += ["--proc", "/proc", "--dev", "/dev"]
    options += ["--hostname", "localhost"]  # no name of the host can reach a file, and this one is known everywhere
    options += ["--tmpfs", "/tmp"]  # noqa: S108 - before the binds: what they name may lie below it
    for place in _view(places):
        options += ["--ro-bind-try", place, place]
    hosts = scratch / "hosts"
    hosts.write_text("127.0.0.1 localhost\n::1 localhost\n", "utf-8")
    options += ["--ro-bind", str(hosts), "/etc/hosts"]
    return [*options, "--bind", str(scratch), str(scratch), "--remount-ro", "/", "--chdir", str(scratch)]


def _view(places: Sequence[str]) -> list[str]:
    """Return what a worker may read: the system, where distributions keep the settings of Java runtimes, `places`."""
    java = sorted(str(path) for path in Path("/etc").glob("java*"))
    return list(dict.fromkeys((*_SYSTEM, *java, *places)))


def gpu_devices() -> list[str]:
    """Return the device files of NVIDIA's driver."""
    return sorted(str(path) for path in Path("/dev").glob("nvidia*"))


def _our_places() -> list[str]:
    """Return the directories this program lives in, editable installs included."""
    return [str(place) for name in _PACKAGES for place in importlib.import_module(name).__path__]


def environment(scratch: Path, pinned: Mapping[str, str], code: str = "") -> dict[str, str]:
    """Return the whole environment of a worker. Nothing is inherited: secrets live in environments."""
    home = str(scratch / "home")
    found = {"PYTHONPATH": code} if code else {}
    return {"PATH": _PREFIX, "HOME": home, "TMPDIR": home, "XDG_CACHE_HOME": home, **found, **pinned}


def apply_limits(limits: Limits) -> None:
    """Bound the memory of the calling process for good; let it leave no core."""
    if limits.memory:
        resource.setrlimit(resource.RLIMIT_AS, (limits.memory, limits.memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def enter(by: Confinement, scratch: Path, places: Sequence[str], *, gpu: bool = False) -> None:
    """Confine the calling process for good, as far as what started it has not done it. Raises StepError."""
    if by.level == "namespaces":
        namespaces.enter(scratch, _view(places), gpu_devices() if gpu else ())
        if code := seccomp.program():
            seccomp.install(code)

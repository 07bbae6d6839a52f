# SPDX-License-Identifier: Apache-2.0
"""Confine the process that opens untrusted models: no network, no home directory, no secrets, bounded memory.

The worker sees a read-only system, the Python it runs on, its inputs, and two directories to write to; nothing else
of the user exists for it. Bubblewrap makes that view where it works, else this program does (`namespaces`); from there
on both are one: the first process (`launch`) gives up every power, starts the worker, and ends it. Where neither works,
nothing foreign is opened, unless the recipe says `sandbox: none`. How it was is remembered with the result of a step.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import resource
import shutil
import site
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from packager import plugins
from packager.canonical import JSON
from packager.errors import StepError
from packager.sandbox import cgroup, landlock, launch, namespaces, process, seccomp
from packager.sandbox.process import Handles, Outcome, Running

_SYSTEM = (
    "/usr",
    "/lib",
    "/lib64",
    "/bin",
    "/sbin",
    "/opt",
    "/sys/devices/system",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/localtime",
    "/etc/nsswitch.conf",
)
_PACKAGES = ("packager", "packager.runtimes", "packager.policies", "packager.templates")
_PREFIX = "/usr/local/bin:/usr/bin:/bin"
LEVELS = ("none", "namespaces", "bubblewrap")  # from the weakest to the strongest


@dataclass(frozen=True, slots=True)
class Limits:
    """What one step may use, all its processes together, but for `sandbox: none`, where each is bounded by itself.

    `memory` in bytes (0: no limit), `seconds` of wall time, `disk` in bytes of what it writes (0: what is free),
    `processes` with their threads, of which libraries start some per core.
    """

    memory: int
    seconds: int
    disk: int = 0
    processes: int = 512 + 16 * (os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The Python a worker runs on: the program, the directories it must see, and where it finds our code.

    `code` is for the module search path; empty where this program is installed for that Python.
    """

    program: str
    paths: tuple[str, ...]
    code: str = ""


def host_interpreter() -> Interpreter:
    """Return the Python that runs this."""
    paths = [sys.prefix, sys.base_prefix, *site.getsitepackages(), *_our_paths()]
    return Interpreter(sys.executable, tuple(str(Path(path).resolve()) for path in paths))


def environment_interpreter(path: Path, code: Path) -> Interpreter:
    """Return the Python of a virtual environment that knows nothing of us: our code is linked into `code`."""
    path = path.resolve()  # a link on the way there would not be seen inside
    settings = dict(line.split(" = ", 1) for line in (path / "pyvenv.cfg").read_text().splitlines() if " = " in line)
    base = Path(settings["home"]).resolve().parent
    program = path / "bin" / "python"
    paths = [path, base, program.resolve().parent.parent, *(Path(item).resolve() for item in _our_paths())]
    _link_code(code)
    return Interpreter(str(program), tuple(map(str, dict.fromkeys(paths))), str(code))


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
    """How a worker is confined.

    `level` is what made its view of the system, `seccomp` whether its system calls are filtered, `landlock` whether the
    kernel guards files a second time. `user` names its privileges: `own` those of the calling ordinary user,
    `other` those of a user that owns nothing, as root's workers run; `root` is neither. `limits` hold for the whole
    `step`, watched or, in a `cgroup`, by the kernel at every moment, or for each `process`.
    """

    level: str
    seccomp: bool
    landlock: bool = False
    user: str = "own"
    limits: str = "process"

    def to_json(self) -> JSON:
        return asdict(self)

    @property
    def is_whole(self) -> bool:
        """True if the worker kept no user's privileges, and limits held for all its processes together."""
        return self.level != "none" and self.user != "root" and self.limits != "process"

    @staticmethod
    def from_json(value: JSON) -> Confinement:
        """Read a record; what older ones do not say did not hold."""
        user = str(value.get("user", "root"))
        limits = str(value.get("limits", "process"))
        return Confinement(str(value["level"]), bool(value["seccomp"]), bool(value.get("landlock")), user, limits)

    @staticmethod
    def weakest(found: Sequence[Confinement]) -> Confinement | None:
        """Return what holds for all of them; None if there are none."""
        if not found:
            return None
        return Confinement(
            min((item.level for item in found), key=LEVELS.index),
            all(item.seccomp for item in found),
            all(item.landlock for item in found),
            min((item.user for item in found), key=USERS.index),
            min((item.limits for item in found), key=LIMITS.index),
        )


USERS = ("root", "own", "other")  # from the most powerful to the one without any power
LIMITS = ("process", "step", "cgroup")  # from the weakest to the strongest
NONE = Confinement("none", seccomp=False, user="root" if os.getuid() == 0 else "own")


@functools.cache
def find_confinement() -> Confinement:
    """Return the strongest confinement that works here, found by confining something; NONE if none does."""
    user = "own" if launch.user_of(0) is None else "other"
    limits = "step" if cgroup.delegated_tree() is None else "cgroup"
    for level in ("bubblewrap", "namespaces"):
        by = Confinement(level, seccomp.build_program() is not None, landlock.read_version() > 0, user, limits)
        if _is_possible(level) and _works(by):
            return by
    return NONE


def _is_possible(level: str) -> bool:
    return find_bubblewrap() is not None if level == "bubblewrap" else namespaces.is_supported()


def _works(by: Confinement) -> bool:
    with tempfile.TemporaryDirectory() as scratch:
        step = Step(Path(scratch), host_interpreter(), ("-c", "import packager.errors"), Limits(0, 60, 1 << 20, 64))
        return run_confined(step, by, set()).code == 0


@functools.cache
def find_bubblewrap() -> str | None:
    """Return the path of bubblewrap, if this machine has it."""
    return shutil.which("bwrap", path=_PREFIX)


def choose_confinement(*, wanted: bool) -> Confinement:
    """Return how workers are confined here; not `wanted`, not at all. Raises StepError where nothing can do it."""
    found = find_confinement() if wanted else NONE
    if wanted and found.level == "none":
        raise StepError(
            "the worker that opens the model cannot be confined here",
            hint="install bubblewrap (`apt-get install bubblewrap`) and allow user namespaces; `sandbox: none` in the "
            "recipe does without, for models that you trust like your own code",
        )
    return found


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be run: `python` with `arguments`, in the directory `scratch`, which nothing else uses.

    Of `scratch` the worker sees `in`, `code` and `job.json` to read, and `out` and `home` to write. `gpu` shows the
    devices of NVIDIA's driver to it; nothing else may see them, so that no artefact depends on them. `variables` are
    its whole environment; `passed` are sockets that it inherits.
    """

    scratch: Path
    python: Interpreter
    arguments: Sequence[str]
    limits: Limits
    variables: Mapping[str, str] = field(default_factory=dict)
    gpu: bool = False
    passed: tuple[socket.socket, ...] = ()


_slots = itertools.count(os.getpid() * 64)


def run_confined(
    step: Step, by: Confinement, living: set[Running], answer: Callable[[int], None] | None = None
) -> Outcome:
    """Run a step confined `by`, until nothing of it lives. `answer` is called with the descriptor of the answers."""
    if by.level == "none":
        prepare(step.scratch, None)
        return process.run(
            lambda _: _line(step),
            _told(answer, {}),
            step.variables,
            str(step.scratch / "home"),
            step.limits.seconds,
            living,
            step.passed,
        )
    job = {**job_of(step, by), "arguments": _line(step)}

    def command(handles: Handles) -> Sequence[str]:
        boot = [_base(), "-I", "-S", "-B", "-c", _BOOT, str(handles.job)]
        return [*_wrapping(job), "--", *boot] if by.level == "bubblewrap" else boot

    def run(wrap: Callable[[Sequence[str]], Sequence[str]] = lambda line: line) -> Outcome:
        return process.run(
            lambda handles: wrap(command(handles)),
            _told(answer, job),
            {"PATH": _PREFIX},
            "/",
            step.limits.seconds,
            living,
            step.passed,
        )

    tree = cgroup.delegated_tree() if by.limits == "cgroup" else None
    if tree is None:
        return run()
    with cgroup.new_group(tree, step.limits.memory, step.limits.processes) as group:
        return group.judge(run(group.entered))


def _line(step: Step) -> list[str]:
    return [step.python.program, "-s", "-P", "-B", *step.arguments]  # not -I: that would ignore PYTHONHASHSEED


def job_of(step: Step, by: Confinement) -> dict[str, object]:
    """Lay out the scratch of a step; return what `launch` reads about it, which takes a user of its own."""
    user = launch.user_of(next(_slots))
    prepare(step.scratch, user)
    spaces = by.level == "namespaces"
    return {"arguments": list(step.arguments), "user": user, "landlock": by.landlock, "spaces": spaces, **view(step)}


def _told(answer: Callable[[int], None] | None, job: Mapping[str, object]) -> Callable[[Handles], Mapping[str, object]]:
    def complete(handles: Handles) -> Mapping[str, object]:
        if answer:
            answer(handles.answer)
        return {**job, "answer": handles.answer, "status": handles.status}

    return complete


def _base() -> str:
    """Return the interpreter below the virtual environment that runs this, if that is one."""
    return str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())


_BOOT = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); "
    "from packager.sandbox import launch; launch.main()"
)


def prepare(scratch: Path, user: int | None) -> None:
    """Lay out what a worker sees of `scratch`."""
    for name in ("in", "code", "out", "home", "etc", "root"):
        (scratch / name).mkdir(exist_ok=True)
        (scratch / name).chmod(0o755)
    (scratch / "job.json").touch()
    (scratch / "job.json").chmod(0o644)
    for name in ("out", "home"):
        if user is not None:
            os.chown(scratch / name, user, user)
    users, groups = launch.passwd_rows(user)
    for name, text in (("passwd", users), ("group", groups), ("hosts", "127.0.0.1 localhost\n::1 localhost\n")):
        (scratch / "etc" / name).write_text(text, "ascii")
        (scratch / "etc" / name).chmod(0o644)


def view(step: Step) -> dict[str, object]:
    """Return what a step sees and what it may use, as `launch` reads it.

    Where distributions keep the settings of Java runtimes is part of the system.
    """
    scratch, limits = step.scratch, step.limits
    java = sorted(str(path) for path in Path("/etc").glob("java*"))
    system = [*_SYSTEM, *java, *(["/sys"] if step.gpu else [])]
    read = dict.fromkeys([*system, *step.python.paths, *host_interpreter().paths[1:2], *_our_paths()])
    shown = [(path, path) for path in read]
    shown += [(str(scratch / "etc" / name), f"/etc/{name}") for name in ("passwd", "group", "hosts")]
    shown += [(str(scratch / name), str(scratch / name)) for name in ("in", "code", "job.json")]
    own = [str(scratch / name) for name in ("out", "home")]
    free = shutil.disk_usage(scratch).free
    memory = limits.memory or default_limits().memory
    return {
        "shown": shown,
        "own": own,
        "root": str(scratch / "root"),
        "home": str(scratch / "home"),
        "readable": [*(target for _, target in shown), "/proc"],
        "writable": [*own, "/tmp", "/dev/shm"],  # noqa: S108 - both are the step's own
        "gpu": step.gpu,
        "devices": gpu_devices() if step.gpu else [],
        "memory-files": memory // 2,
        "limits": asdict(replace(limits, disk=min(limits.disk or free, free))),
        "variables": dict(step.variables),
        "passed": [end.fileno() for end in step.passed],
    }


def _wrapping(job: Mapping[str, Any]) -> list[str]:
    """Return the call of bubblewrap. Root needs no user space: the first process gives root up."""
    options = [str(find_bubblewrap()), "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    options += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL"]
    kept = () if job["user"] is None else ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP")
    options += ["--unshare-user"] if job["user"] is None else [word for name in kept for word in ("--cap-add", name)]
    size = str(job["memory-files"])
    options += ["--proc", "/proc", "--dev", "/dev", "--size", size, "--perms", "1777", "--tmpfs", "/dev/shm"]  # noqa: S108
    options += ["--hostname", "localhost"]  # no name of the host can reach a file, and this one is known everywhere
    options += ["--size", size, "--perms", "1777", "--tmpfs", "/tmp"]  # noqa: S108 - before what may lie below it
    options += [word for path in _parents(job) for word in ("--perms", "0755", "--dir", path)]  # else only root's
    options += [word for source, target in job["shown"] for word in ("--ro-bind-try", source, target)]
    options += [word for path in job["devices"] for word in ("--dev-bind-try", path, path)]
    options += [word for path in job["own"] for word in ("--bind", path, path)]
    return [*options, "--remount-ro", "/proc", "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/"]


def _parents(job: Mapping[str, Any]) -> list[str]:
    """Return the directories above what is shown, from the top, but for file systems of the step's own."""
    targets = [*(target for _, target in job["shown"]), *job["own"]]
    there = {"/", "/tmp", "/dev", "/dev/shm"}  # noqa: S108
    return sorted({str(parent) for target in targets for parent in Path(target).parents} - there)


def gpu_devices() -> list[str]:
    """Return the device files of NVIDIA's driver."""
    return sorted(str(path) for path in Path("/dev").glob("nvidia*"))


def _our_paths() -> list[str]:
    """Return the directories this program and plug-ins of third parties live in, editable installs included."""
    own = [str(path) for name in _PACKAGES for path in importlib.import_module(name).__path__]
    return [*own, *map(str, plugins.foreign_paths())]


def build_environment(scratch: Path, pinned: Mapping[str, str], code: str = "") -> dict[str, str]:
    """Return the whole environment of a worker. Nothing is inherited: secrets live in environments."""
    home = str(scratch / "home")
    found = {"PYTHONPATH": code} if code else {}
    named = {"USER": "worker", "LOGNAME": "worker"}
    return {"PATH": _PREFIX, "HOME": home, "TMPDIR": home, "XDG_CACHE_HOME": home, **named, **found, **pinned}


def apply_limits(limits: Limits) -> None:
    """Bound the memory of the calling process for good; let it leave no core."""
    if limits.memory:
        resource.setrlimit(resource.RLIMIT_AS, (limits.memory, limits.memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

# SPDX-License-Identifier: Apache-2.0
"""What a confined worker can do: the filter of system calls call by call, and both ways of confinement for real."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from packager import canonical
from packager.actions.runner import Runner
from packager.sandbox import sandbox, seccomp
from packager.sandbox.process import Outcome
from packager.sandbox.sandbox import NONE, Confinement, Limits, Step
from packager.sandbox.warm import ForkServer
from packager.store.store import Store
from packager.types import Action, Result, Tree

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
X86, ARM = 0xC000003E, 0xC00000B7
FORKED = "forked"
LEVELS = [Confinement(level, seccomp=True, limits="step") for level in ("bubblewrap", "namespaces")]


WAYS = [*(by.level for by in LEVELS), FORKED]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    shared = tmp_path_factory.mktemp("shared")
    for above in (shared, shared.parent):
        above.chmod(0o755)
    made = ForkServer("tables", shared)
    yield made
    made.stop()


@pytest.fixture
def scratch(way: str, server: ForkServer, tmp_path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=server.shared if way == FORKED else tmp_path) as name:
        yield Path(name)


def confined(step: Step, way: str, server: ForkServer, *, landlock: bool = True) -> Outcome:
    """Run a step in one of the ways that workers run, each of which this host must be able to."""
    by = Confinement("namespaces" if way == FORKED else way, seccomp=True, landlock=landlock, limits="step")
    if way == "bubblewrap" and sandbox.find_confinement().level != way:
        pytest.skip("bubblewrap does not work here")
    if way != FORKED:
        return sandbox.run_confined(step, by, set())
    done = server.run(step, by, set())
    assert done is not None, "the server is dead"
    return done


def decide(program: bytes, architecture: int, call: int, *arguments: int) -> int:
    """Run a filter as the kernel would, over one call."""
    data = struct.pack("=iIQ6Q", call, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    rows = list(struct.iter_unpack("=HBBI", program))
    held, place = 0, 0
    while True:
        code, yes, no, operand = rows[place]
        place += 1
        if code == 0x06:
            return int(operand)
        if code == 0x20:
            (held,) = struct.unpack_from("=I", data, operand)
        else:
            holds = {0x15: held == operand, 0x35: held >= operand, 0x45: bool(held & operand)}[code]
            place += yes if holds else no


CALLS: dict[str, tuple[tuple[int, int], tuple[int, ...], int]] = {
    "read": ((0, 63), (), ALLOW),
    "execve": ((59, 221), (), ALLOW),
    "timerfd_create": ((283, 85), (), ALLOW),
    "mount": ((165, 40), (), EPERM),
    "unshare": ((272, 97), (0x10000000,), EPERM),
    "ptrace": ((101, 117), (), EPERM),
    "bpf": ((321, 280), (), EPERM),
    "io_uring_setup": ((425, 425), (), EPERM),
    "memfd_create": ((319, 279), (), EPERM),
    "splice": ((275, 76), (), EPERM),
    "seccomp": ((317, 277), (), EPERM),
    "pidfd_getfd": ((438, 438), (), EPERM),
    "statmount": ((457, 457), (), ENOSYS),
    "a call of tomorrow": ((1000, 1000), (), ENOSYS),
    "clone3": ((435, 435), (), ENOSYS),
    "clone, a thread": ((56, 220), (0x3D0F00,), ALLOW),
    "clone, a user namespace": ((56, 220), (0x10000011,), EPERM),
    "clone, a time namespace": ((56, 220), (0x91,), EPERM),
    "ioctl TCGETS": ((16, 29), (0, 0x5401), ALLOW),
    "ioctl SIOCGIFFLAGS": ((16, 29), (0, 0x8913), ALLOW),
    "ioctl SIOCSIFFLAGS": ((16, 29), (0, 0x8914), EPERM),
    "ioctl TIOCSTI": ((16, 29), (0, 0x5412), EPERM),
    "ioctl TIOCLINUX": ((16, 29), (0, 0x541C), EPERM),
    "ioctl TIOCSTI, upper half set": ((16, 29), (0, 0x5412 | 1 << 32), EPERM),
    "ioctl of a driver": ((16, 29), (0, 0xC020462A), EPERM),
    "personality, a question": ((135, 92), (0xFFFFFFFF,), ALLOW),
    "personality, fixed addresses": ((135, 92), (0x40000,), ALLOW),
    "personality, another system": ((135, 92), (0x8,), EPERM),
    "prctl PR_SET_NAME": ((157, 167), (15,), ALLOW),
    "prctl PR_SET_SECCOMP": ((157, 167), (22,), EPERM),
    "prctl PR_SET_MM": ((157, 167), (35,), EPERM),
    "socket unix": ((41, 198), (1, 1), ALLOW),
    "socket IPv6": ((41, 198), (10, 1), ALLOW),
    "socket netlink, routes": ((41, 198), (16, 3, 0), ALLOW),
    "socket netlink, packet filters": ((41, 198), (16, 3, 12), EPERM),
    "socket packet": ((41, 198), (17, 3), EPERM),
    "socket vsock": ((41, 198), (40, 1), EPERM),
    "socket alg": ((41, 198), (38, 5), EPERM),
    "socketpair unix": ((53, 199), (1, 1), ALLOW),
    "socketpair TIPC": ((53, 199), (30, 1), EPERM),
}
OF_A_GPU = {"ioctl of a driver", "ioctl SIOCSIFFLAGS"}  # which its worker may ask, of what it was shown
MACHINES = [("x86_64", 0, X86), ("aarch64", 1, ARM)]


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize(("machine", "column", "architecture"), MACHINES)
def test_each_call_gets_its_answer(machine: str, column: int, architecture: int, gpu: bool) -> None:
    program = seccomp.build_program(machine, gpu=gpu)
    assert program and len(program) < 8 * 4096
    answers = {
        name: decide(program, architecture, numbers[column], *args) for name, (numbers, args, _) in CALLS.items()
    }
    assert answers == {name: ALLOW if gpu and name in OF_A_GPU else answer for name, (_, _, answer) in CALLS.items()}
    assert decide(program, architecture ^ 1, 0) == KILL, "a call of another architecture"


@pytest.mark.parametrize(("machine", "column", "architecture"), MACHINES)
def test_unlisted_system_call_is_refused(machine: str, column: int, architecture: int) -> None:
    program, listed = seccomp.build_program(machine) or b"", {numbers[column] for numbers in seccomp._ALLOWED.values()}
    looked_at = set(seccomp._MACHINES[machine][2].values())
    for number in (*range(1024), 0x3FFFFFFF):
        if number not in looked_at:
            expected = ALLOW if number in listed else ENOSYS if number >= 449 else EPERM
            assert decide(program, architecture, number, *[2**64 - 1] * 6) == expected, number


def test_calls_by_another_name_end_the_process() -> None:
    assert decide(seccomp.build_program("x86_64") or b"", X86, 0x40000000 | 165) == KILL
    assert seccomp.build_program("riscv64") is None


@pytest.mark.parametrize(("column", "header"), [(0, "x86_64-linux-gnu/asm/unistd_64.h"), (1, "asm-generic/unistd.h")])
def test_numbers_are_those_of_the_kernel(column: int, header: str) -> None:
    path = Path("/usr/include") / header
    if not path.exists():
        pytest.skip("the kernel's headers are not installed")
    known = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", path.read_text())}
    known |= {"newfstatat": known.get("newfstatat", known.get("fstatat")), "fchmodat2": 452}  # of Linux 6.6
    listed = {name: numbers[column] for name, numbers in seccomp._ALLOWED.items() if numbers[column] is not None}
    looked_at = list(seccomp._MACHINES.values())[column][2]
    assert {**listed, **looked_at} == {name: known.get(name) for name in (*listed, *looked_at)}


def test_traced_system_calls_are_allowed_or_harmless() -> None:
    """The record is of builds that worked."""
    record = json.loads((Path(__file__).parents[3] / "docs/measurements/system-calls.json").read_bytes())
    known = {*seccomp._ALLOWED, *seccomp._MACHINES["x86_64"][2]}
    for source, calls in record.items():
        made = {name.split(" ")[0] for name in calls if ":" not in name}
        refused = {name.split(":")[0] for name in calls if ":" in name}
        assert made <= known | refused, source


REFUSED = """
import ctypes, errno, json, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number):
    ctypes.set_errno(0)
    return "done" if libc.syscall(*[ctypes.c_long(word) for word in (number, *[-1] * 6)]) != -1 else errno.errorcode[ctypes.get_errno()]
def dies(attempt):
    child = os.fork()
    if not child:
        attempt()
        os._exit(0)
    return -os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
def foreign():  # mov eax, 20 (getpid of a 32-bit machine); int 0x80; ret
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(bytes.fromhex("b814000000cd80c3"))
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
print(json.dumps({"refused": {number: call(number) for number in json.loads(sys.argv[1])},
    "foreign": dies(foreign), "x32": dies(lambda: call(0x40000000 | 39))}))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the foreign call is x86's")
@pytest.mark.parametrize("way", WAYS)
def test_the_kernel_refuses_every_call_that_is_not_on_the_list(way: str, scratch: Path, server: ForkServer) -> None:
    listed = {*(numbers[0] for numbers in seccomp._ALLOWED.values()), *seccomp._MACHINES["x86_64"][2].values()}
    probes = (335, 336)  # the kernel lets no filter judge them (6.14), and ends whoever is not being probed
    others = [number for number in range(600) if number not in (*listed, *probes)]
    step = Step(
        scratch,
        sandbox.host_interpreter(),
        ("-c", REFUSED, json.dumps(others)),
        Limits(1 << 32, 60),
        sandbox.build_environment(scratch, {}),
    )
    done = confined(step, way, server)
    assert done.code == 0, done.log
    said = json.loads(done.log)
    assert said["refused"] == {str(number): "ENOSYS" if number >= 449 else "EPERM" for number in others}
    assert (said["foreign"], said["x32"]) == (signal.SIGSYS, signal.SIGSYS)


ATTEMPTS = """
import ctypes, errno, json, os, socket, subprocess, sys
from pathlib import Path
import packager
secret, our = sys.argv[1], packager.__path__[0]
libc = ctypes.CDLL(None, use_errno=True)
def says(attempt):
    try: return attempt() and None
    except OSError as error: return errno.errorcode[error.errno]
def call(name, *arguments):
    return None if getattr(libc, name)(*arguments) == 0 else errno.errorcode[ctypes.get_errno()]
Path("own").write_text("x"), Path("/tmp/own").write_text("x"), Path("../out/own").write_text("x")
print(json.dumps({
    "secret": says(lambda: Path(secret).read_bytes()), "home": says(lambda: os.listdir("/home")),
    "system": says(lambda: Path("/usr/x").write_text("x")), "root": says(lambda: Path("/x").write_text("x")),
    "program": says(lambda: Path(our, "x").write_text("x")), "input": says(lambda: Path("../in/x").write_text("x")),
    "beside": says(lambda: Path("../x").write_text("x")), "output": says(lambda: os.rename("../out", "../other")),
    "devices": says(lambda: Path("/dev/x").write_text("x")), "null": says(lambda: Path("/dev/null").write_text("x")),
    "network": says(lambda: socket.create_connection(("192.0.2.1", 80), 5)),
    "raw": says(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
    "unshare": call("unshare", 0x10000000), "unmount": call("umount2", b"/tmp", 2), "mount": call("mount", b"x", b"/tmp", b"tmpfs", 0, None),
    "trace": call("ptrace", 0, 0, 0, 0), "host": socket.gethostname(),
    "others": [pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) not in (1, os.getpid())],
    "init": says(lambda: Path("/proc/1/mem").read_bytes()), "kill init": says(lambda: os.kill(1, 9)),
    "descriptors": [place for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")
                    and not (place := os.readlink(f"/proc/self/fd/{fd}")).startswith(("pipe:", "/dev/null"))],
    "filtered": [row.split()[1] for row in open("/proc/self/status") if row.startswith(("Seccomp:", "NoNewPrivs:", "CapEff:", "CapBnd:"))],
    "memory": subprocess.run([sys.executable, "-c", "bytearray(5 << 30)"], capture_output=True).returncode,
    "fixed addresses": libc.personality(0x40000), "another system": libc.personality(8), "user": os.getuid() != 0,
    "loopback": socket.create_server(("127.0.0.1", 0)).getsockname()[0],
    "name": subprocess.run(["id", "-un"], capture_output=True, text=True).stdout.strip(),
}))
"""
BESIDE = ("EACCES", "EROFS")  # which of them depends on the modes of the directories above
EXPECTED = {
    "secret": "ENOENT",
    "home": "ENOENT",
    "system": "EROFS",
    "root": "EROFS",
    "program": "EROFS",
    "network": "ENETUNREACH",
    "input": "EROFS",
    "beside": BESIDE,
    "output": BESIDE,
    "devices": "EROFS",
    "null": None,
    "name": "worker",
    "raw": "EPERM",
    "unshare": "EPERM",
    "unmount": "EPERM",
    "mount": "EPERM",
    "trace": "EPERM",
    "host": "localhost",
    "init": "EACCES",
    "kill init": "EPERM",
    "descriptors": [],
    "user": True,
    "others": [],
    "filtered": ["0" * 16, "0" * 16, "1", "2"],
    "memory": 1,
    "loopback": "127.0.0.1",
    "fixed addresses": 0,
    "another system": -1,
}


@pytest.mark.parametrize("landlock", [True, False], ids=["landlock", "no landlock"])
@pytest.mark.parametrize("way", WAYS)
def test_all_ways_leave_a_worker_the_same(
    tmp_path: Path, way: str, scratch: Path, server: ForkServer, landlock: bool
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    step = Step(
        scratch,
        sandbox.host_interpreter(),
        ("-c", ATTEMPTS, str(secret)),
        Limits(1 << 32, 60),
        sandbox.build_environment(scratch, {}),
    )
    done = confined(step, way, server, landlock=landlock)
    assert done.code == 0, done.log
    expected = dict(EXPECTED)
    if not landlock:
        expected["kill init"] = None  # which the kernel refuses to hear, for a first process
    if os.getuid() != 0 and scratch.is_relative_to("/tmp"):  # the directories above lie in a `/tmp` of the step's own
        expected |= {"beside": None, "output": "EBUSY"}
    found = json.loads(done.log)
    for name in ("beside", "output"):
        if found[name] in BESIDE:
            found[name] = BESIDE
    assert found == expected
    assert not (scratch / "x").exists()
    assert (scratch / "home" / "own").read_text() == "x"
    assert not Path("/tmp/own").exists()


@pytest.mark.parametrize("parent", ["/dev/shm", "/tmp"])
@pytest.mark.parametrize("way", [by.level for by in LEVELS])
def test_scratch_may_lie_where_a_step_has_file_systems_of_its_own(parent: str, way: str, server: ForkServer) -> None:
    """A store in memory makes builds faster; what lies beside the scratch directory there is not seen."""
    with tempfile.TemporaryDirectory(dir=parent) as above:
        Path(above).chmod(0o755)
        scratch = Path(above, "scratch")
        scratch.mkdir()
        Path(above, "beside").touch()
        code = "import os, sys; print(*os.listdir(sys.argv[1])); open(sys.argv[2], 'w').write('x')"
        arguments = ("-c", code, above, str(scratch / "home" / "own"))
        variables = sandbox.build_environment(scratch, {})
        done = confined(
            Step(scratch, sandbox.host_interpreter(), arguments, Limits(1 << 32, 60), variables), way, server
        )
        assert done.code == 0 and done.log == b"scratch\n", done.log
        assert (scratch / "home" / "own").read_text() == "x"


# what is remembered of it

ACTION = Action("measure", 1)


@pytest.fixture
def runner(tmp_path: Path) -> Callable[..., Runner]:
    return lambda **options: Runner(Store(tmp_path / "store"), Limits(0, 60), **options)


def remembered(runner: Runner, confinement: Any) -> None:
    tree = runner.store.put_tree(Tree()).digest
    runner.store.remember(ACTION.key, ACTION.to_json(), Result(tree, {}, confinement=confinement))


@pytest.mark.parametrize("confinement", [None, NONE.to_json()], ids=["unknown", "none"])
def test_what_was_not_confined_is_done_again_where_it_must_be(runner: Callable[..., Runner], confinement: Any) -> None:
    remembered(runner(), confinement)
    assert runner(confined=False)(ACTION, "x").cached
    assert runner()._recalled(ACTION, by_worker=True) is None
    assert runner()(ACTION, "x", perform=lambda _: None).cached, "what no worker does is not confined"


def test_better_confined_result_replaces_a_worse_one(runner: Callable[..., Runner]) -> None:
    remembered(runner(), None)
    store, better = runner().store, Confinement("namespaces", seccomp=True, limits="step").to_json()
    tree = store.put_tree(Tree()).digest
    store.remember(ACTION.key, ACTION.to_json(), Result(tree, {"n": 1}, confinement=better), instead=True)
    assert store.recall(ACTION.key) == Result(tree, {"n": 1}, cached=True, confinement=better)
    assert runner()(ACTION, "x").facts == {"n": 1}
    record = canonical.load((store.root / "actions" / ACTION.key.removeprefix("sha256:")).read_bytes(), limit=1 << 20)
    assert record["confinement"] == better


def test_of_several_workers_the_weakest_counts() -> None:
    strong = Confinement("bubblewrap", seccomp=True, landlock=True, user="other", limits="step")
    weak = Confinement("namespaces", seccomp=False, landlock=True, user="own", limits="process")
    assert Confinement.weakest([strong, weak]) == weak
    assert Confinement.weakest([strong, strong]) == strong
    assert Confinement.from_json({"level": "bubblewrap", "seccomp": True}) == Confinement(
        "bubblewrap", seccomp=True, user="root", limits="process"
    ), "what an older record does not say did not hold"
    assert Confinement.weakest([strong, NONE, weak]) == NONE
    assert Confinement.weakest([]) is None


def test_not_wanting_it_is_the_only_way_without() -> None:
    assert sandbox.choose_confinement(wanted=False) == NONE
    if sandbox.find_confinement() != NONE:
        assert sandbox.choose_confinement(wanted=True) == sandbox.find_confinement()


def test_this_python_is_shown_to_workers() -> None:
    assert str(Path(sys.prefix).resolve()) in sandbox.host_interpreter().paths

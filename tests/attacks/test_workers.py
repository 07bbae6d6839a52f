# SPDX-License-Identifier: Apache-2.0
"""A hostile worker can do nothing outside, in both kinds of confinement and forked, as root and as a user.

Each payload runs where a source is opened, with all that a source can have. It is followed by an honest step on the same
store, which must work.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.as_user import HIDE, ROOT, SHOW, become

USER = 12345

ANSWER = """
import json, os
job = json.load(open(os.environ["HOME"] + "/../job.json"))
scratch, out, answer = os.path.dirname(job["out"]), job["out"], job["answer"]
def say(text, status=0):
    # whichever way answers go: a descriptor, or a file
    try:
        os.write(answer, text) if isinstance(answer, int) else open(answer, "wb").write(text)
    finally:
        os._exit(status)
def write(text):
    os.write(answer, text) if isinstance(answer, int) else open(answer, "wb").write(text)
FACTS = json.dumps({"facts": {
    "interface": {"inputs": [], "outputs": [], "dimensions": {}}, "ranges": {}, "nondeterministic": [],
    "graph": {"opset": {}, "ir": 8, "operators": {}, "parameters": 0, "bytes": 0,
              "activations": {"bytes": 0, "unknown": 0}},
}}).encode()
"""


@dataclass(frozen=True)
class Site:
    """A place that attacks run at: a store, and the canary files of its owner."""

    folder: Path
    prefix: tuple[str, ...]
    words: tuple[str, ...] = ()

    def attack(self, payload: str, seconds: float = 120) -> dict[str, Any]:
        """Run a payload, which has so long; return what the build would say. The default is for a busy machine."""
        file = self.folder / "payload.py"
        file.write_text(ANSWER + textwrap.dedent(payload).replace("CANARIES", str(self.folder / "canaries")))
        file.chmod(0o644)
        line = [
            *self.prefix,
            sys.executable,
            "-m",
            "tests.attacks.hostile_step",
            self.folder / "store",
            file,
            str(seconds),
            *self.words,
        ]
        env = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "HERE": sys.base_prefix}
        done = subprocess.run(
            line, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=seconds + 90
        )
        assert done.returncode == 0, done.stderr
        said: dict[str, Any] = json.loads(done.stdout)
        assert "\n" not in said.get("error", ""), "one sentence"
        return said


WAYS: dict[str, tuple[str, ...]] = (
    {
        "bubblewrap-root": (),
        "namespaces-root": HIDE,
        "bubblewrap-user": (*SHOW, *become(USER)),
        "namespaces-user": (*HIDE, *SHOW, *become(USER)),
        "forked-root": (),
        "forked-user": (*SHOW, *become(USER)),
    }
    if os.geteuid() == 0
    else {"as it is": (), "forked": ()}
)


def both_ways(name: str, kinds: Iterable[Any], ids: Sequence[str] | None = None) -> pytest.MarkDecorator:
    """Every kind in bubblewrap and the first of them in namespaces by default: what follows is one program (ADR 161)."""
    found, named = [*kinds], [*(ids or ())]
    pairs = []
    for way in WAYS:
        for number, kind in enumerate(found):
            rare = "user" in way or (way.startswith(("namespaces", "forked")) and number)
            text = f"{way}-{named[number] if named else kind}"
            pairs.append(pytest.param(way, kind, id=text, marks=pytest.mark.slow if rare else []))
    return pytest.mark.parametrize(("site", name), pairs, indirect=["site"])


RARE = [name for name in WAYS if name not in ("bubblewrap-root", "as it is")]  # `both_ways` has some of them by default


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] if name in RARE else []) for name in WAYS])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    folder = tmp_path
    for above in (folder, *folder.parents):
        if above.stat().st_mode & stat.S_ISVTX:  # the system's directory for temporary files
            break
        above.chmod(above.stat().st_mode | 0o755)
    canaries = folder / "canaries"
    canaries.mkdir()
    (canaries / "secret").write_text("the secret of the host")
    if "user" in request.param:
        for path in (folder, canaries, canaries / "secret"):
            os.chown(path, USER, USER)
    before = {path: (path.stat(), path.read_bytes()) for path in canaries.iterdir()}
    yield Site(folder, WAYS[request.param], ("forked",) if "forked" in request.param else ())
    after = {path: (path.stat(), path.read_bytes()) for path in canaries.iterdir()}
    assert {p: (s.st_ino, s.st_mode, s.st_nlink, s.st_uid, d) for p, (s, d) in before.items()} == {
        p: (s.st_ino, s.st_mode, s.st_nlink, s.st_uid, d) for p, (s, d) in after.items()
    }, "the files of the host are as they were"
    assert not list((folder / "store/v1/tmp").iterdir()), "scratch is gone"


def test_output_that_becomes_a_link_is_not_followed(site: Site) -> None:
    said = site.attack("""
        try:
            os.rmdir(out); os.symlink("CANARIES", out)
        except OSError:
            pass
        say(FACTS)
    """)
    assert said.get("tree", {}) == {}


def test_output_that_holds_links_is_refused(site: Site) -> None:
    said = site.attack("""
        os.symlink("CANARIES/secret", out + "/model.bin"); os.symlink("CANARIES", out + "/folder"); say(FACTS)
    """)
    assert "symbolic link" in said["error"]


def test_no_link_in_place_of_the_log_tells_a_secret(site: Site) -> None:
    said = site.attack("""
        try:
            os.remove(scratch + "/log"); os.symlink("CANARIES/secret", scratch + "/log")
        except OSError:
            pass
        os._exit(3)
    """)
    assert "the secret" not in said["log"] and "status 3" in said["error"]


@both_ways("kind", ["FIFO", "sparse", "flood", "deep"])
def test_response_is_read_up_to_a_limit_without_blocking(site: Site, kind: str) -> None:
    said = site.attack(
        {
            "FIFO": """
            if not isinstance(answer, int):
                os.mkfifo(answer)
            os._exit(0)
        """,
            "sparse": """
            if not isinstance(answer, int):
                os.truncate(open(answer, "wb").name, 1 << 43)
            os._exit(0)
        """,
            "flood": """
            handle = answer if isinstance(answer, int) else os.open(answer, os.O_WRONLY | os.O_CREAT)
            for _ in range(200):
                os.write(handle, b" " * (1 << 20))
            os._exit(0)
        """,
            "deep": """say(b'{"facts":' + b"[" * 100000 + b"]" * 100000 + b"}")""",
        }[kind]
    )
    assert "answer" in said["error"] and said["seconds"] < 90


def test_a_log_of_any_length_is_kept_by_its_end(site: Site) -> None:
    said = site.attack("""
        try:
            os.truncate(1, 1 << 43)
        except OSError:
            pass
        for _ in range(64):
            os.write(1, b"x" * (1 << 20))
        os.write(1, b"\\nthe end\\n")
        os._exit(3)
    """)
    assert said["log"].endswith("the end") and len(said["log"]) < 20_000


@both_ways("status", [0, 4, 3])
def test_an_answer_must_agree_with_the_exit_status(site: Site, status: int) -> None:
    error = b'{"error": {"message": "no", "hint": null}}'
    said = site.attack(f"say({error!r} if {status} != 4 else FACTS, {status})")
    assert "answer" in said["error"] or "status 3" in said["error"]


@both_ways("kind", ["sparse", "deep", "FIFO", "socket", "many", "odd name"])
def test_output_is_a_few_plain_files_or_refused_and_scratch_goes(site: Site, kind: str) -> None:
    said = site.attack(
        {
            "sparse": """open(out + "/model.bin", "wb").truncate(1 << 43)""",
            "deep": """
            handle = os.open(out, os.O_RDONLY)
            for _ in range(3000):
                os.mkdir("d", dir_fd=handle)
                inner = os.open("d", os.O_RDONLY, dir_fd=handle); os.close(handle); handle = inner
        """,
            "FIFO": """os.mkfifo(out + "/model.bin")""",
            "socket": """import socket; socket.socket(socket.AF_UNIX).bind(out + "/s")""",
            "many": """
            for number in range(30000):
                os.close(os.open(f"{out}/{number}", os.O_CREAT))
        """,
            "odd name": """os.close(os.open(os.fsencode(out) + b"/\\xff\\x1b[31m", os.O_CREAT))""",
        }[kind].rstrip()
        + ("\n" + " " * 12 if "\n" in kind or kind in ("deep", "many") else "; ")
        + "say(FACTS)"
    )
    assert "error" in said and said["seconds"] < 90
    assert re.fullmatch(r"[ -~…]+", said["error"]), "nothing of a foreign name reaches the terminal"
    assert "error" not in site.attack("say(FACTS)"), "the next step finds a store that works"


def test_nothing_of_the_kernel_can_be_set(site: Site) -> None:
    said = site.attack("""
        tried = []
        for name in ("kernel/core_pattern", "vm/overcommit_memory", "kernel/hostname", "net/ipv4/ip_forward"):
            path = "/proc/sys/" + name
            try:
                value = open(path, "rb").read()
                os.write(os.open(path, os.O_WRONLY), value)
                tried.append(name)
            except OSError:
                pass
        for path in ("/sys/kernel/mm/ksm/run", "/proc/sysrq-trigger", "/proc/self/oom_score_adj"):
            try:
                os.close(os.open(path, os.O_WRONLY)); tried.append(path)
            except OSError:
                pass
        powers = [row for row in open("/proc/self/status") if row.startswith(("Uid", "Cap", "NoNewPrivs"))]
        facts = json.loads(FACTS)
        facts["facts"]["nondeterministic"] = [json.dumps({"written": tried, "powers": powers})]  # texts, in an answer's form
        say(json.dumps(facts).encode())
    """)
    found = json.loads(said["facts"]["nondeterministic"][0])
    assert found["written"] == []
    powers = {name: value.split() for name, value in (row.split(":") for row in found["powers"])}
    assert powers.pop("NoNewPrivs") == ["1"]
    assert "0" not in powers.pop("Uid"), "not root, inside"
    assert all(value == ["0" * 16] for value in powers.values())


@pytest.mark.parametrize(
    "payload",
    [
        "os.mkfifo(out + '/pipe')",  # as Python says it
        "import ctypes; os.write(2, os.strerror(ctypes.CDLL(None, use_errno=True).memfd_create(b'x', 0) + 2).encode()); os.abort()",
    ],
    ids=["an exception", "a word in the log"],
)
def test_the_error_says_that_a_call_may_have_been_refused(site: Site, payload: str) -> None:
    said = site.attack(payload)
    assert "refused a system call" in said["hint"], said


def test_a_library_that_crashes_is_named_by_its_call(site: Site) -> None:
    said = site.attack("import ctypes; ctypes.string_at(0)")
    assert "crashed with SIGSEGV" in said["error"]
    assert "in string_at" in said["log"], said
    assert "crashed below Python" in said["hint"]


def test_a_call_of_another_architecture_ends_the_step(site: Site) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("the call is x86's")
    said = site.attack("""
        import ctypes, mmap
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(bytes.fromhex("b814000000cd80c3"))   # mov eax, 20; int 0x80; ret
        ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
        say(FACTS)
    """)
    assert "another architecture" in said["error"]


POISON = """
    import ctypes, time, signal
    ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)   # no death signal any more
    held = os.open(out + "/model.bin", os.O_RDWR | os.O_CREAT)
    os.write(held, b"weights of a well known public model\\n" * 1000)
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:               # a daemon that ignores what can be ignored
                for number in range(1, 32):
                    try: signal.signal(number, signal.SIG_IGN)
                    except (OSError, ValueError): pass
                for _ in range(600):
                    time.sleep(0.1); os.pwrite(held, b"EVIL" * 8, 0)
            os._exit(0)
    if KILL:
        write(FACTS)
        if os.fork() == 0:
            time.sleep(0.5)
            os.kill(0, signal.SIGKILL)       # the old group, and with it who waits
    try:
        os.setsid()
    except OSError:
        pass
    ENDING
"""


def running(mark: str) -> list[str]:
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes().decode("utf-8", "replace").replace("\0", " ")
        except OSError:
            continue
        found += [words] if mark in words else []
    return found


@both_ways(
    "ending",
    ["say(FACTS)", "time.sleep(4); os.pwrite(held, b'EVIL', 0); time.sleep(6)", "time.sleep(90)"],
    ids=["done", "kills who waits", "never ends"],
)
def test_nothing_outlives_a_step_or_writes_to_its_output_later(site: Site, ending: str) -> None:
    kill = str("sleep(4)" in ending)
    said = site.attack(POISON.replace("KILL", kill, 1).replace("ENDING", ending), 30 if "90" in ending else 120)
    time.sleep(2)
    assert not running(str(site.folder)), "everything the step started is dead"
    for digest, _ in said.get("tree", {}).values():
        blob = site.folder / "store/v1/blobs/sha256" / digest.removeprefix("sha256:")
        found = subprocess.run(["sha256sum", blob], capture_output=True, text=True, check=True).stdout.split()[0]
        assert f"sha256:{found}" == digest, "a blob is what its name says"
    if "90" in ending:
        assert "did not end" in said["error"]


def test_signals_reach_nobody_outside(site: Site) -> None:
    bystander = subprocess.Popen(["sleep", "100"])
    try:
        said = site.attack("""
            import signal
            for number in (0, -1):
                if os.fork() == 0:
                    os.setsid() if number else None
                    os.kill(number, signal.SIGTERM); os._exit(0)
            for number in range(1, 40000):
                if number != os.getpid():
                    try: os.kill(number, signal.SIGUSR1)
                    except OSError: pass
            say(FACTS)
        """)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
    assert "error" in said or said["facts"]["nondeterministic"] == []


GREED = {
    "memory files": (
        """
        with open("/tmp/fill", "wb") as a, open("/dev/shm/fill", "wb") as b:
            for _ in range(40):
                a.write(b"x" * (50 << 20)); b.write(b"x" * (50 << 20)); time.sleep(0.02)
        """,
        "memory|No space left",
    ),
    "children": (
        """
        for _ in range(8):
            if os.fork() == 0:
                held = bytearray(os.urandom(1 << 20)) * 300; time.sleep(60); os._exit(0)
        time.sleep(60)
        """,
        "memory",
    ),
    "unmapped": (
        """
        import ctypes
        held = []
        for _ in range(8):
            handle = ctypes.CDLL(None).memfd_create(b"x", 0)
            for _ in range(5): os.write(handle, b"x" * (50 << 20))
        """,
        "Bad file descriptor|failed|memory",
    ),
    "processes": (
        """
        stopped = None
        while True:
            try: child = os.fork()
            except OSError as error: stopped = error.errno; break
            if child == 0: time.sleep(9); os._exit(0)
        os._exit(9)
        """,
        "processes|status 9",
    ),
    "threads": (
        """
        import threading
        for _ in range(30000): threading.Thread(target=time.sleep, args=(3,)).start()
        """,
        "can't start new thread|failed|memory",
    ),
    "a large file": (
        "open(out + '/f', 'wb').truncate(1 << 42)\nos._exit(9)",
        "File too large|SIGXFSZ|failed|status 25",
    ),
}


@both_ways("kind", GREED)
def test_limits_hold_for_the_whole_step(site: Site, kind: str) -> None:
    payload, words = GREED[kind]
    said = site.attack("import time\n" + textwrap.dedent(payload))
    assert re.search(words, f"{said['error']} {said['log']}"), said
    assert not running(str(site.folder))

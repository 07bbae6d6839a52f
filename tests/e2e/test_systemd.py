# SPDX-License-Identifier: Apache-2.0
"""A rendered unit runs, hardened, on a listener that others opened; it says when it is ready and that it lives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.conftest import Project, tool
from tests.support import systemd_units
from tests.support.triton_servers import free_ports

pytestmark = pytest.mark.slow

SETUP = """
set -eu
python3 -m venv /opt/tool
/opt/tool/bin/pip install -q --disable-pip-version-check --no-index --find-links /mnt --only-binary :all: model-packager
/opt/tool/bin/packager install /media/1.2.3.bundle.tar /srv/cnn --key /media/release.pub --values /opt/units/cnn.yaml
"""


@pytest.fixture(scope="session")
def host(root_filesystem: Path, packager_wheels: Path, deployable: Project, tmp_path_factory: pytest.TempPathFactory):
    """A clean Debian with packager in /opt/tool and the bundle installed in /srv/cnn, and the units for it."""
    work = tmp_path_factory.mktemp("host")
    (port,) = free_ports(1)
    for name in ("opt", "srv"):
        (work / name).mkdir()
    for name, knob in (("units", "server.read_timeout=60"), ("apart", "runtime.processes=2")):
        deployable.run(
            "render",
            "systemd",
            "1.2.3.bundle.tar",
            work / "opt" / name,
            "--key",
            "release.pub",
            "--program",
            "/opt/tool/bin/packager",
            "--values-file",
            f"/opt/{name}/cnn.yaml",
            "--set",
            f"server.port={port}",
            "--set",
            knob,
        )
    for path in (work, *work.parents[:2], deployable.folder, *deployable.folder.parents[:1]):
        path.chmod(0o755)
    binds = {work / "opt": "/opt", work / "srv": "/srv"}
    shown = [word for place, inside in binds.items() for word in ("--bind", str(place), inside)]
    command = [
        tool("bwrap"),
        "--unshare-all",
        "--clearenv",
        "--setenv",
        "PATH",
        "/usr/bin:/bin",
        "--setenv",
        "HOME",
        "/tmp",
        "--ro-bind",
        root_filesystem,
        "/",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--tmpfs",
        "/tmp",
        "--ro-bind",
        packager_wheels,
        "/mnt",
        "--ro-bind",
        deployable.folder,
        "/media",
        *shown,
        "/bin/sh",
        "-c",
        SETUP,
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return root_filesystem, work / "opt" / "units", binds


def ready(address: str) -> int:
    with urllib.request.urlopen(f"http://{address}/v2/health/ready", timeout=60) as answer:
        return answer.status


def test_it_serves_on_the_passed_listener_and_gives_signs_of_life(host, tmp_path: Path) -> None:
    """A client that connects before it is ready waits and is answered; a loop that stands still gives no sign."""
    root, folder, binds = host
    with systemd_units.service(folder, "cnn", root, binds, tmp_path, watchdog=0.5) as manager:
        early = []
        client = threading.Thread(target=lambda: early.append(connected(manager.address)))
        client.start()
        found = manager.notices(120, until="READY=1")
        assert "READY=1" in found, manager.log.read_text()
        client.join(30)
        assert early == [200]
        assert ready(manager.address) == 200
        knobs = json.loads(urllib.request.urlopen(f"http://{manager.address}/v2/knobs").read())
        assert knobs["values"]["server.read_timeout"] == 60
        assert manager.notices(2).count("WATCHDOG=1") >= 4
        inner = children(manager.process.pid)
        os.kill(inner, signal.SIGSTOP)
        manager.notices(0.6)
        assert manager.notices(1.5) == []
        os.kill(inner, signal.SIGCONT)
        assert "WATCHDOG=1" in manager.notices(2)
        os.kill(inner, signal.SIGTERM)
        assert "STOPPING=1" in manager.notices(10, until="STOPPING=1")
        assert manager.process.wait(40) == 0
        log = [json.loads(row) for row in manager.log.read_text().splitlines()]
        assert {row["level"].lower() for row in log} == {"info"}, log


def test_workers_run_under_the_same_hardening(host, tmp_path: Path) -> None:
    """Shared memory, pipes and processes of the model need nothing that the unit denies; one that dies is replaced."""
    root, folder, binds = host
    with systemd_units.service(folder.with_name("apart"), "cnn", root, binds, tmp_path, watchdog=5) as manager:
        assert "READY=1" in manager.notices(120, until="READY=1"), manager.log.read_text()
        assert answered(manager.address) == 10
        inner = children(children(manager.process.pid))
        workers = every_child(inner)
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        assert answered(manager.address) == 10
        end = time.monotonic() + 30
        while len(every_child(inner)) < 2 or '"worker replaced"' not in manager.log.read_text():
            assert time.monotonic() < end, manager.log.read_text()
            time.sleep(0.05)
        assert ready(manager.address) == 200


def answered(address: str) -> int:
    """Ask the model; return how many numbers it answers."""
    body = {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.5] * 64}]}
    asked = urllib.request.Request(f"http://{address}/v2/models/cnn/infer", json.dumps(body).encode())
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return len(json.loads(answer.read())["outputs"][0]["data"])


def connected(address: str) -> int:
    """Ask for liveness with patience: the kernel holds the connection until somebody accepts."""
    with urllib.request.urlopen(f"http://{address}/v2/health/live", timeout=120) as answer:
        return answer.status


def children(pid: int) -> int:
    """Return the process below bubblewrap that serves."""
    (child,) = every_child(pid)
    return child


def every_child(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]

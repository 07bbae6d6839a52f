# SPDX-License-Identifier: Apache-2.0
"""A customer's machine: a clean Debian, one ordinary user, no network interface but loopback, one bundle, one key.

One bundle serves three releases of Debian, each with its own Python. A root file system is made once by debootstrap and kept in the user's cache directory. Inside there is Python as Debian
ships it, and nothing of ours: packager itself arrives as wheels, as it would on a stick. bubblewrap unshares everything.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import CNN_RECIPE, Project, download_packager, tool
from tests.support import clean_debian

pytestmark = pytest.mark.slow
PYTHONS = {"bookworm": "3.11", "trixie": "3.13", "forky": "3.14"}
"""The Python that each release of Debian ships; none ships 3.12."""
PLATFORMS = [f"linux_x86_64-cp{python.replace('.', '')}" for python in PYTHONS.values()]
UID = 1000

ASK = """
import json, time, urllib.request
for _ in range(300):
    try:
        urllib.request.urlopen("http://127.0.0.1:8765/v2/health/ready", timeout=2)
        break
    except OSError:
        time.sleep(0.1)
body = {"inputs": [{"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": [0.5] * 64}]}
headers = {"content-type": "application/json"}
request = urllib.request.Request("http://127.0.0.1:8765/v2/models/cnn/infer", json.dumps(body).encode(), headers)
print("answer:", json.loads(urllib.request.urlopen(request, timeout=10).read())["outputs"][0]["data"])
"""
SCRIPT = r"""
set -eu
echo "interfaces: $(sed -n 's/^ *\([a-z0-9]*\):.*/\1/p' /proc/net/dev | tr '\n' ' ')"
test "$(grep -c : /proc/net/dev)" = 1
echo "routes: $(($(wc -l < /proc/net/route) - 1))"
echo "user: $(id -u)"
python3 --version
if python3 -c 'import packager' 2>/dev/null; then echo "packager was there before"; exit 1; fi
python3 -c 'import socket; socket.create_connection(("1.1.1.1", 53), 2)' 2>&1 | tail -1
python3 -m venv /tmp/tool
/tmp/tool/bin/pip install -q --disable-pip-version-check --no-index --find-links /mnt --only-binary :all: model-packager
/tmp/tool/bin/packager verify /srv/cnn.bundle.tar --key /srv/release.pub
/tmp/tool/bin/packager install /srv/cnn.bundle.tar /tmp/site --key /srv/release.pub
/tmp/tool/bin/packager serve /tmp/site --port 8765 2>/tmp/log &
server=$!
python3 /srv/ask.py || { cat /tmp/log; exit 1; }
kill $server
wait $server
echo "server ended: $?"
"""


@pytest.fixture(scope="module")
def carried(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every customer receives: the bundle, with wheels for each Python, and the public key."""
    project = Project(tmp_path_factory.mktemp("airgap") / "project", built.store)
    shutil.copytree(built.folder, project.folder)
    project.write(CNN_RECIPE.replace("1.2.3", "4.0.0") + f"vendor: [{', '.join(PLATFORMS)}]\n")
    project.run("lock")
    project.run("build", "--locked")
    goods = project.folder / "goods"
    goods.mkdir()
    project.run("sign", "cnn:4.0.0", "--key", "release.pem", "-o", goods / "cnn.bundle.tar")
    shutil.copy(project.folder / "release.pub", goods)
    (goods / "ask.py").write_text(ASK)
    return goods


@pytest.mark.parametrize("release", PYTHONS)
def test_a_clean_machine_without_a_network_installs_and_answers(
    release: str, carried: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("the bundle of this test carries wheels for x86-64")
    tool("bwrap")
    root_filesystem = clean_debian.make_root("python3", "python3-venv", suite=release)
    (tmp_path / "tools").mkdir()
    tools = download_packager(tmp_path / "tools", PYTHONS[release])
    goods = shutil.copytree(carried, tmp_path / "goods")
    for path in (tmp_path, *tmp_path.parents[:2], tools, goods):
        path.chmod(0o755)  # pytest's directories are for their owner alone
    command = [
        tool("bwrap"),
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--clearenv",
        "--setenv",
        "PATH",
        "/usr/bin:/bin",
        "--setenv",
        "HOME",
        "/tmp",
        "--setenv",
        "LANG",
        "C.UTF-8",
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
        tools,
        "/mnt",
        "--ro-bind",
        goods,
        "/srv",
        "--uid",
        str(UID),
        "--gid",
        str(UID),
        "--chdir",
        "/tmp",
        "/bin/sh",
        "-c",
        SCRIPT,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    with capsys.disabled():
        print(f"\n{done.stdout}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "interfaces: lo \n" in done.stdout
    assert "routes: 0\n" in done.stdout
    assert f"user: {UID}\n" in done.stdout
    assert f"Python {PYTHONS[release]}." in done.stdout
    assert "Network is unreachable" in done.stdout
    assert "installed cnn:4.0.0" in done.stdout
    answer = re.search(r"answer: \[(.*)\]", done.stdout)
    assert answer
    assert len(answer[1].split(",")) == 10
    assert "server ended: 0" in done.stdout

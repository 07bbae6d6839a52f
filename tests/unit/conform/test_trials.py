# SPDX-License-Identifier: Apache-2.0
"""A runtime under test has no network, writes nowhere but to its own folder, and does not report to its maker."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest
from packager.runtimes import _trials
from packager.runtimes._trials import Trial

PROGRAM = """
import json, os, pathlib, socket, sys
def tried(what):
    try:
        what()
    except OSError as error:
        return type(error).__name__
    return "done"
said = {
    "network": tried(lambda: socket.create_connection(("127.0.0.1", PORT), 5)),
    "outside": tried(lambda: pathlib.Path(OUTSIDE).write_text("x")),
    "home": tried(lambda: pathlib.Path.home().joinpath("kept").write_text("x")),
    "telemetry": os.environ.get("ORT_DISABLE_TELEMETRY"),
    "own": str(pathlib.Path.home()) == os.getcwd(),
}
print(json.dumps([0, json.dumps(said)] if sys.argv[1] != "--about" else said))
"""


@pytest.mark.skipif(_trials._find_wrapper() is None, reason="bubblewrap does not work here")
def test_a_runtime_under_test_is_confined(tmp_path: Path) -> None:
    program, outside = tmp_path / "program" / "trial.py", tmp_path / "outside"
    program.parent.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program.write_text(PROGRAM.replace("PORT", str(port)).replace("OUTSIDE", repr(str(outside))))
        (text,) = _trials.run(Path(sys.executable), program, [Trial(b"graph")])
        facts = _trials.read_facts(Path(sys.executable), program)
    for said in (json.loads(text), facts):
        assert said["network"] != "done", said
        assert said["home"] == "done" and said["telemetry"] == "1" and said["own"]
    assert not outside.exists(), "what it wrote there, if anything, went to a memory of its own"


def test_a_death_is_told_of_the_graph_it_came_of(tmp_path: Path) -> None:
    """By the signal, also where the process is confined; the graphs behind it are tried."""
    program = tmp_path / "trial.py"
    program.write_text(
        "import json, os, sys\n"
        "for index in range(int(sys.argv[2]), 3):\n"
        "    os.abort() if index == 1 else print(json.dumps([index, 'ok']), flush=True)\n"
    )
    said = _trials.run(Path(sys.executable), program, [Trial(b"")] * 3)
    assert said == ["ok", "died: signal 6", "ok"]

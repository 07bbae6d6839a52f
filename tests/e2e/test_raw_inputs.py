# SPDX-License-Identifier: Apache-2.0
"""From a model directory to an answered sentence: init, lock, build, sign, verify, install, serve, ask."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import Project
from tests.support.raw_client import Client

ROOT = Path(__file__).parents[2]
_WRITE = "import sys; from pathlib import Path; from tests.support.raw_models import write_classifier as w; w(Path(sys.argv[1]))"
RECIPE = """
name: moods
version: 1.0.0
source: ./model
pipeline: {task: text-classification, top: 2}
policy: dev
platforms: [%s]
"""


@pytest.mark.slow  # its parts are held by tests/unit/pipelines by default
def test_a_sentence_in_labels_out(project: Callable[..., Project], tmp_path: Path) -> None:
    made = project(RECIPE % f"linux_x86_64-cp3{sys.version_info.minor}")
    subprocess.run(
        [sys.executable, "-c", _WRITE, str(made.folder / "model")], check=True, cwd=ROOT, capture_output=True
    )
    drafted = made.run("init", "./model", "-o", "drafted.yaml") and (made.folder / "drafted.yaml").read_text()
    assert "pipeline: text-classification" in drafted
    made.run("lock")
    assert "tokenizers==" in (made.folder / "bundle.lock").read_text()
    built = made.run("build", "--locked", "--json")
    made.run("keygen", "release")
    made.run("sign", "moods:1.0.0", "--key", "release.pem", "-o", "moods.bundle.tar")
    made.run("verify", "moods.bundle.tar", "--key", "release.pub")
    shown = made.run("inspect", "moods.bundle.tar").stdout
    assert "pipeline   text-classification" in shown and "pipeline/tokenizer.json" in shown
    again = made.run("build", "--locked", "--json")
    assert again["digest"] == built["digest"]
    made.run("install", "moods.bundle.tar", "site", "--key", "release.pub")
    with served(made, "site") as client:
        answer = client.ask("/predict", {"rows": ["what a lovely day", "no"]})[1]
        assert answer["model"]["digest"] == built["digest"]
        assert all(
            len(row) == 2 and {item["label"] for item in row} < {"bad", "fair", "good"} for row in answer["answers"]
        )
    rows = "".join(json.dumps({"text": f"row {number}", "id": number}) + "\n" for number in range(300))
    (made.folder / "rows.jsonl").write_text(rows)
    made.run("run", "site", "rows.jsonl", "-o", "out.jsonl")
    lines = [json.loads(line) for line in (made.folder / "out.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == list(range(300)) and len(lines[0]["answer"]) == 2


class served:
    """Serve an installation while a block runs."""

    def __init__(self, project: Project, directory: str) -> None:
        self._project, self._directory = project, directory

    def __enter__(self) -> Client:
        import socket
        import time

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "packager", "serve", self._directory, "--port", str(port)]
        environment = {**os.environ, "PACKAGER_STORE": str(self._project.store)}
        self._process = subprocess.Popen(command, cwd=self._project.folder, env=environment, stderr=subprocess.DEVNULL)
        client = Client(port)
        for _ in range(600):
            assert self._process.poll() is None
            try:
                if client.ask("/v2/health/ready")[0] == 200:
                    return client
            except OSError:
                time.sleep(0.1)
        raise AssertionError("not ready")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        assert self._process.wait(60) == 0

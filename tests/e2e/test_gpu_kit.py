# SPDX-License-Identifier: Apache-2.0
"""The GPU kit, end to end on the CPU: prepared, cut into trips, put together again, run, and written as a page."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu import prepare, report
from tests.support.tools import tool

ROOT = Path(__file__).resolve().parents[2]


def test_trips_are_bounded_and_join_to_what_was_cut(tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    contents = {
        "bundles/a.bundle.tar": bytes(range(256)) * 1000,
        "keys/release.pub": b"key",
        "keys/release.pem": b"private",
        "kit.json": b"{}",
        "on_device.py": b"",
        "models.py": b"",
        "wheels/w.whl": hashlib.shake_256(b"w").digest(300_000),
    }
    for name, data in contents.items():
        (kit / name).parent.mkdir(parents=True, exist_ok=True)
        (kit / name).write_bytes(data)
    prepare.cut_trips(kit, 100_000)
    trips = sorted((kit / "trips").glob("trip-*/*"))
    assert len(trips) >= 4 and all(piece.stat().st_size <= 100_000 for piece in trips)
    there = tmp_path / "machine"
    there.mkdir()
    page = (kit / "trips" / "README.md").read_text().split("```")[1]
    commands = [line for line in page.splitlines() if line.startswith("cat ")]
    subprocess.run("\n".join(commands).replace("/tmp/", f"{there}/"), shell=True, cwd=kit / "trips", check=True)
    tool("xz")  # tar runs it
    for file in ("kit.tar.xz", "wheels.tar"):
        subprocess.run([tool("tar"), "-xf", file], cwd=there, check=True)
    assert {name for name in contents if (there / "kit" / name).is_file()} == set(contents) - {"keys/release.pem"}
    assert all((there / "kit" / name).read_bytes() == contents[name] for name in set(contents) - {"keys/release.pem"})


def test_a_rehearsal_is_no_measurement(tmp_path: Path) -> None:
    run, page = tmp_path / "rehearsal.json", tmp_path / "gpu.md"
    run.write_text(json.dumps({"format": 1, "provider": "CPUExecutionProvider", "started": 0.0, "rows": []}))
    words = [sys.executable, "-m", "tests.gpu.report", str(run), "--out", str(page)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "a page needs a run on a GPU" in done.stderr and not page.exists()


@pytest.mark.slow  # builds two models and runs all measurements: minutes
def test_a_rehearsal_on_the_cpu(tmp_path: Path) -> None:
    kit, out = tmp_path / "kit", tmp_path / "gpu-report.json"
    words = ["--folder", str(kit), "--only", "cnn", "encoder", "language", "--without-wheels"]
    subprocess.run([sys.executable, "-m", "tests.gpu.prepare", *words], cwd=ROOT, check=True)
    words = ["--out", str(out), "--provider", "CPUExecutionProvider", "--budget", "3600", "--each", "900"]
    subprocess.run([sys.executable, str(kit / "on_device.py"), str(kit), *words], cwd=tmp_path, check=False)
    found = json.loads(out.read_text())
    failed = {(row["measurement"], row["model"]) for row in found["rows"] if "error" in row}
    assert failed == {("tensorrt", "-")}  # the library is for GPUs
    rows = {(row["measurement"], row["model"]): row for row in found["rows"]}
    for name in ("cnn", "encoder", "language"):
        assert rows["verify", name]["ok"]
        index = kit / "files" / name / "vectors" / "index.json"
        signed = len(json.loads(index.read_text())["cases"]) if index.is_file() else 3  # sizes of a language model
        for target in rows["parity", name]["targets"].values():
            assert target["cases"] == signed
            assert target["server"] == "opens"
            assert all(gap["largest"] <= 1e-3 * max(1.0, gap["of"]) for gap in target["outputs"].values())
        assert {cell["outcome"] for cell in rows["conform", name]["cells"]} == {"pass"}
        assert all(set(found["statuses"]) == {"200"} for found in rows["served", name]["targets"].values())
        assert {row["way"] for row in rows["torch", name]["rows"]} == {"eager", "compile"}
    page = report.render(found)
    assert page.startswith("# A rehearsal of the GPU kit on a CPU")
    assert "- tensorrt of -: " in page

# SPDX-License-Identifier: Apache-2.0
"""`packager run` over a real installation: order, refused rows, forms of files, and kills at any moment."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from packager.deploy import server_files, table_files
from packager.server.pipeline.document import digest_of
from tests.support.raw_models import Made
from tests.unit.pipelines.test_images import jpeg

BUNDLE = f"sha256:{'1' * 64}"


def installation(folder: Path, made: Made, *, raw: bool = True) -> Path:
    """Lay out what `packager install` makes, with this interpreter's environment."""
    release = folder / "site" / "releases" / "1"
    for name, data in server_files.list_program("onnxruntime").items():
        (release / "app" / name).parent.mkdir(parents=True, exist_ok=True)
        (release / "app" / name).write_bytes(data)
    (release / "env").symlink_to(sys.prefix)
    pipeline = folder / "pipeline" / "pipeline.json"
    config: dict[str, Any] = {
        "name": "model",
        "version": "1.0.0",
        "digest": BUNDLE,
        "runtime": "onnxruntime",
        "target": "onnxruntime-cpu-fp32",
        "artefact": str(made.graph / "model" / "model.onnx"),
        "interface": made.interface,
    }
    if raw:
        config["pipeline"] = {"path": str(pipeline), "digest": digest_of(pipeline.read_bytes())}
    (release / "serve.json").write_text(json.dumps(config))
    (folder / "site" / "current").symlink_to("releases/1")
    return folder / "site"


@pytest.fixture(scope="module")
def moods(classifier: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moods")
    classifier.step(folder / "pipeline", {"task": "text-classification", "top": 1}, strings=20)
    return installation(folder, classifier)


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "packager", "run", *map(str, arguments)]


def run(*arguments: str | Path, code: int = 0) -> Any:
    done = subprocess.run(command(*arguments, "--json"), capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if code == 0 else json.loads(done.stdout or "{}") or done.stderr


def write_lines(path: Path, count: int) -> Path:
    rows = [{"id": number, "text": f"text {number} " + "word " * (number % 17)} for number in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_order_and_refused_rows(moods: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    rows = [
        '{"text": "a", "id": 1}',
        "no json",
        '{"text": 3}',
        "",
        '["text"]',
        '{"text": "b", "id": 2}',
        '{"text": "\\ud800"}',
        '"c"',
    ]
    source.write_text("\n".join(rows))
    done = run(moods, source, "-o", tmp_path / "out.jsonl")
    assert (done["rows"], done["refused"], done["bundle"]) == (3, 4, BUNDLE)
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["text"] for row in found] == ["a", "b", "c"] and found[0]["answer"][0]["label"] in (
        "bad",
        "fair",
        "good",
    )
    refused = [json.loads(line) for line in (tmp_path / "out.jsonl.refused.jsonl").read_text().splitlines()]
    assert [row["row"] for row in refused] == [1, 2, 3, 5]
    assert "not JSON" in refused[0]["reason"] and "expected a `text`" in refused[1]["reason"]
    assert json.loads((tmp_path / "out.jsonl.run.json").read_text())["bundle"] == BUNDLE
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in.jsonl",
        "out.jsonl",
        "out.jsonl.refused.jsonl",
        "out.jsonl.run.json",
    ]


def test_csv_and_parquet(moods: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text('review,stars\n"good, really",5\n\nbad,1\nshort\nmore,2,3\n')
    assert run(moods, source, "-o", tmp_path / "out.csv", "--column", "text=review")["refused"] == 2
    refused = [json.loads(line) for line in (tmp_path / "out.csv.refused.jsonl").read_text().splitlines()]
    assert [(row["row"], row["reason"]) for row in refused] == [(2, "expected 2 cells"), (3, "expected 2 cells")]
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["review"] for row in rows] == ["good, really", "bad"] and json.loads(rows[0]["answer"])[0]["score"] > 0
    table = pyarrow.table({"text": ["one", "two", "three"], "number": [1, 2, 3]})
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    run(moods, tmp_path / "in.parquet", "-o", tmp_path / "out.parquet", "--chunk", "2")
    found = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert found["number"].to_pylist() == [1, 2, 3] and found.schema.metadata[b"packager.bundle"] == BUNDLE.encode()


def test_vectors_in_parquet(encoder: Made, tmp_path: Path) -> None:
    encoder.step(tmp_path / "pipeline", {"task": "sentence-embedding"}, strings=20)
    site = installation(tmp_path, encoder)
    run(site, write_lines(tmp_path / "in.jsonl", 20), "-o", tmp_path / "out.parquet")
    found = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert found["answer"].type == pyarrow.list_(pyarrow.float64()) and len(found["answer"][0]) == 32


def test_files_of_a_folder_are_in_order_and_no_links(tmp_path: Path) -> None:
    """Names are compared folder by folder, so that `a b/` and `a-1/` come where `a/` does, not among its files."""
    names = [".hidden.png", "B.jpeg", "a/z.PNG", "a b/c.png", "a-1/q.png", "a.png", "b.jpg", "é/x.wav"]
    for name in [*reversed(names), "a/.png", "notes.pdf"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "link.png").symlink_to("b.jpg")
    (tmp_path / "linked").symlink_to("a", target_is_directory=True)
    assert [row["file"] for row in table_files.read_rows(tmp_path)] == names  # type: ignore[call-overload,index]


def test_a_folder_of_images(pictures_model: Made, tmp_path: Path) -> None:
    pictures_model.step(tmp_path / "pipeline", {"task": "image-classification", "top": 1})
    site, folder = installation(tmp_path, pictures_model), tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("b.jpg", "more/a.jpeg"):
        (folder / name).write_bytes(jpeg())
    (folder / "c.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not looked at")
    (folder / "link.jpg").symlink_to("/etc/passwd")
    done = run(site, folder, "-o", tmp_path / "out.jsonl")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["file"] for row in found] == ["b.jpg", "more/a.jpeg"] and done["refused"] == 1


def test_a_bundle_that_takes_tensors(classifier: Made, tmp_path: Path) -> None:
    site = installation(tmp_path, classifier, raw=False)
    row = {name: [2, 5, 3] for name in ("input_ids", "token_type_ids")} | {"attention_mask": [1, 1, 1]}
    row["token_type_ids"] = [0, 0, 0]
    rows = [row, {**row, "input_ids": ["x", 1, 1]}, {**row, "input_ids": [1.5, 1, 1]}, {**row, "input_ids": None}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(item) + "\n" for item in rows))
    assert run(site, tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl")["refused"] == 3
    found = json.loads((tmp_path / "out.jsonl").read_text())
    assert len(found["answer"]["logits"]) == 3


def test_what_cannot_run(moods: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", 5)
    for arguments in (
        (source, "-o", tmp_path / "out.txt"),
        (tmp_path / "absent.jsonl", "-o", tmp_path / "out.jsonl"),
        (source, "-o", tmp_path / "out.jsonl", "--column", "text=review"),
        (source, "-o", tmp_path / "out.jsonl", "--column", "image=review"),
        (source, "-o", tmp_path / "out.jsonl", "--chunk", "0"),
    ):
        run(moods, *arguments, code=2)


def test_no_input_is_overwritten_and_no_directory_is_a_file(moods: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", 5)
    before = source.read_bytes()
    (tmp_path / "same.jsonl").symlink_to("in.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    for out, words in (("in", "the input itself"), ("same", "the input itself"), ("folder", "a directory")):
        assert words in run(moods, source, "-o", tmp_path / f"{out}.jsonl", code=2)["error"]["message"]
    assert source.read_bytes() == before and not list(tmp_path.glob("*.parts"))


def chunks_done(parts: Path) -> int:
    """Return how many chunks an interrupted run has behind it."""
    journal = parts / "done"
    return len(journal.read_bytes().splitlines()) if journal.exists() else 0


def kill_after(words: list[str], parts: Path, chunks: int) -> int:
    """Run a command until it has done so many more chunks, kill it, and return how many there are."""
    before = chunks_done(parts)
    process = subprocess.Popen(words, start_new_session=True)
    while process.poll() is None and chunks_done(parts) < before + chunks:
        time.sleep(0.002)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return chunks_done(parts)


def kill_on_the_way(words: list[str], out: Path, chunks: int, kills: int = 3) -> list[int]:
    """Kill a command so often before its end, after each `chunks` more; return how many there were each time.

    Where this process gets no processor for a while and the command ends first, it begins anew with fewer chunks.
    """
    for portion in (chunks, chunks // 2, chunks // 4, 1):
        left: list[int] = []
        while not out.exists() and len(left) < kills:
            left.append(kill_after(words, out.with_name(f"{out.name}.parts"), portion))
        if not out.exists():
            return left
        out.unlink()
    raise AssertionError("it always ended before it was killed")


def test_kills_at_any_moment_change_no_byte(moods: Path, tmp_path: Path) -> None:
    source, settings = write_lines(tmp_path / "in.jsonl", 1500), ("--chunk", "16", "--processes", "2")
    run(moods, source, "-o", tmp_path / "whole.jsonl", *settings)
    out = tmp_path / "out.jsonl"
    left = kill_on_the_way(command(moods, source, "-o", out, *settings), out, 9)
    assert run(moods, source, "-o", out, *settings)["resumed"] >= left[-1] > left[0]
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not (tmp_path / "out.jsonl.parts").exists()


def lose_the_end(parts: Path) -> None:
    """What a power cut may leave: the bytes of a chunk that never reached the disk, and half of a line."""
    rows = (parts / "rows").read_bytes()
    place = rows.rindex(b"text", 0, len(rows) * 2 // 3)
    (parts / "rows").write_bytes(rows[:place] + b"\0\0\0\0" + rows[place + 4 :])
    with (parts / "done").open("ab") as journal:
        journal.write(b"7 0123")


def test_parts_that_lost_their_bytes_are_answered_again(moods: Path, tmp_path: Path) -> None:
    source, out = write_lines(tmp_path / "in.jsonl", 400), tmp_path / "out.jsonl"
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "out.jsonl.parts"
    settings = ("--chunk", "8")
    run(moods, source, "-o", whole, *settings)
    (left,) = kill_on_the_way(command(moods, source, "-o", out, *settings), out, 9, kills=1)
    lose_the_end(parts)
    done = run(moods, source, "-o", out, *settings)
    assert out.read_bytes() == whole.read_bytes()
    assert 0 < done["resumed"] < left, "the chunks in front of the spoilt one"


def test_parts_of_another_run_are_not_taken(moods: Path, tmp_path: Path) -> None:
    source, out = write_lines(tmp_path / "in.jsonl", 40), tmp_path / "out.jsonl"
    (tmp_path / "out.jsonl.parts").mkdir()
    (tmp_path / "out.jsonl.parts" / "state.json").write_text("{}")
    run(moods, source, "-o", out, code=2)
    assert run(moods, source, "-o", out, "--restart")["rows"] == 40

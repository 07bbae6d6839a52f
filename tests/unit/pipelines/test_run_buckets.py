# SPDX-License-Identifier: Apache-2.0
"""`packager run` over rows in a bucket, on a real S3-compatible server: what is fetched once, and sent at the end."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from packager.api import deploy
from packager.deploy import batch_buckets
from packager.errors import SourceError, UsageError
from tests.support.object_store import ObjectStore, object_store
from tests.support.registry_server import Proxy
from tests.unit.pipelines.test_run import run
from tests.unit.pipelines.test_run_tables import site as site  # a fixture
from tests.unit.pipelines.test_run_tables import write_table

ENDINGS = ("", ".refused.jsonl", ".run.json")


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("s3") / "server") as running:
        yield running


@pytest.fixture
def place(s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A prefix of this test in the bucket; the working directory is the test's own."""
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return f"models/{tmp_path.name}"


def put(s3: ObjectStore, path: Path, key: str) -> None:
    s3.files().put_file(str(path), key)


def get(s3: ObjectStore, key: str) -> bytes:
    found: bytes = s3.files().cat_file(key)
    return found


def answered(site: Path, *where: Path | str, **more: Any) -> dict[str, Any]:
    return deploy.answer_rows(site, *where, processes=1, chunk=64, **more)


@pytest.fixture
def table(s3: ObjectStore, site: Path, place: str, tmp_path: Path) -> dict[str, bytes]:
    """An object of rows; return what a run of the file gives."""
    source = write_table(tmp_path / "rows.csv", 500)
    put(s3, source, f"{place}/in/rows.csv")
    run(site, source, "-o", tmp_path / "local" / "out.csv", "--chunk", "64")
    found = {ending: (tmp_path / "local" / f"out.csv{ending}").read_bytes() for ending in ENDINGS}
    source.unlink()
    return found


def test_rows_come_from_a_bucket_and_go_to_one(
    s3: ObjectStore, site: Path, place: str, table: dict[str, bytes], tmp_path: Path
) -> None:
    done = answered(site, f"s3://{place}/in/rows.csv", f"s3://{place}/out/out.csv")
    assert done["output"] == f"s3://{place}/out/out.csv" and done["rows"] > 300
    assert {ending: get(s3, f"{place}/out/out.csv{ending}") for ending in ENDINGS} == table
    assert sorted(path.name for path in tmp_path.iterdir()) == ["local"], "nothing is left here"


def test_the_command_line_takes_both(s3: ObjectStore, site: Path, place: str, table: dict[str, bytes]) -> None:
    run(site, f"s3://{place}/in/rows.csv", "-o", "here.csv", "--chunk", "64")
    assert Path("here.csv").read_bytes() == table[""] and not Path("here.csv.work").exists()
    Path("rows.jsonl").write_text('{"age": 1, "count": 2, "town": "x"}\n')
    assert run(site, "rows.jsonl", "-o", f"s3://{place}/out/again.jsonl")["rows"] == 1
    assert json.loads(get(s3, f"{place}/out/again.jsonl"))["answer"]["place"] == "x"


def test_what_could_not_be_sent_is_sent_by_the_next_call(
    s3: ObjectStore, site: Path, place: str, table: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    where = (f"s3://{place}/in/rows.csv", f"s3://{place}/out/out.csv")
    sent = batch_buckets._send

    def without_network(*given: Any) -> None:
        proxy = Proxy(1)  # its target refuses connections
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{proxy.host}")
        folder = batch_buckets.Folder(f"s3://{place}/out")
        proxy.close()
        sent(given[0], given[1], folder, given[3])

    with monkeypatch.context() as patch:
        patch.setattr(batch_buckets, "_send", without_network)
        with pytest.raises(SourceError, match="cannot be reached"):
            answered(site, *where)
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    assert not s3.files().exists(f"{place}/out/out.csv") and Path("out.csv.work/done.json").is_file()
    start = s3.position()
    done = answered(site, *where)
    assert done["rows"] > 300 and get(s3, f"{place}/out/out.csv") == table[""]
    assert not [row for row in s3.requests(start) if "GET" in row and "rows.csv" in row], "it was here"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["local"]


def test_an_object_that_changed_is_fetched_and_answered_anew(
    s3: ObjectStore, site: Path, place: str, table: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    where = (f"s3://{place}/in/rows.csv", f"s3://{place}/out/out.csv")

    def interrupted(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(batch_buckets, "_send", interrupted)
        with pytest.raises(KeyboardInterrupt):
            answered(site, *where)
    put(s3, write_table(tmp_path / "more.csv", 40), where[0].removeprefix("s3://"))
    done = answered(site, *where)
    assert done["rows"] + done["refused"] == 40
    rows = [*csv.DictReader(io.StringIO(get(s3, f"{place}/out/out.csv").decode()))]
    assert len(rows) == done["rows"] and max(int(row["id"]) for row in rows) < 40


def test_a_broken_fetch_goes_on(s3: ObjectStore, place: str, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 40_000)
    put(s3, tmp_path / "a.bin", f"{place}/deep/er/a.bin")
    put(s3, tmp_path / "a.bin", f"{place}/deep/b.bin")
    folder, work = batch_buckets.Folder(f"s3://{place}/deep"), tmp_path / "work"
    (work / "input" / "er").mkdir(parents=True)
    found, described = batch_buckets._fetch(f"s3://{place}/deep/", work, lambda event: None)
    assert {path.relative_to(found).as_posix() for path in found.rglob("*.bin")} == {"b.bin", "er/a.bin"}
    whole = (found / "er" / "a.bin").read_bytes()
    (found / "er" / "a.bin").unlink()
    (found / "er" / "a.bin.partial").write_bytes(whole[:9_000_000])
    start = s3.position()
    assert batch_buckets._fetch(f"s3://{place}/deep", work, lambda event: None) == (found, described)
    assert (found / "er" / "a.bin").read_bytes() == whole == (tmp_path / "a.bin").read_bytes()
    assert len([row for row in s3.requests(start) if "GET" in row and "a.bin" in row]) == 1, "the end of it"
    assert folder.size("b.bin") == len(whole)


def test_a_prefix_is_listed_and_each_object_got_once(s3: ObjectStore, place: str, tmp_path: Path) -> None:
    for number in range(30):
        s3.files().pipe_file(f"{place}/in/{number}.png", bytes([number]) * 100)
    (tmp_path / "work").mkdir()
    start = s3.position()
    found, _ = batch_buckets._fetch(f"s3://{place}/in/", tmp_path / "work", lambda event: None)
    assert {path.name: path.read_bytes()[:1] for path in found.iterdir()}["7.png"] == b"\7"
    asked = s3.requests(start)
    assert len([row for row in asked if ".png" in row]) == 30 and len(asked) < 36, asked


def test_what_changes_while_others_are_fetched_is_an_error(
    s3: ObjectStore, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "b.png"):
        s3.files().pipe_file(f"{place}/in/{name}", b"first")
    (tmp_path / "work").mkdir()
    fetched = batch_buckets._fetch_one

    def changing(folder: Any, key: str, size: int, path: Path) -> None:
        fetched(folder, key, size, path)
        s3.files().pipe_file(f"{place}/in/a.png", b"other")

    with monkeypatch.context() as patch:
        patch.setattr(batch_buckets, "_fetch_one", changing)
        with pytest.raises(SourceError, match=r"`a.png` changed while it was read"):
            batch_buckets._fetch(f"s3://{place}/in/", tmp_path / "work", lambda event: None)
    found, _ = batch_buckets._fetch(f"s3://{place}/in/", tmp_path / "work", lambda event: None)
    assert (found / "a.png").read_bytes() == b"other"


@pytest.mark.parametrize("key", ["../a.csv", "a/../../b.csv", "a//b.csv", "./a.csv"])
def test_names_that_leave_the_folder_are_refused(s3: ObjectStore, place: str, tmp_path: Path, key: str) -> None:
    s3.files().pipe_file(f"{place}/in/{key}", b"x")
    with pytest.raises((UsageError, SourceError)):
        batch_buckets._fetch(f"s3://{place}/in/", tmp_path / "work", lambda event: None)
    assert not list(tmp_path.rglob("*.csv"))


@pytest.mark.parametrize(
    ("where", "error", "words"),
    [
        (("s3://{place}/none.csv", "out.csv"), SourceError, "there is no object"),
        (("s3://nowhere-at-all/none.csv", "out.csv"), SourceError, "there is no object"),
        (("s3://{place}/x y.csv", "out.csv"), UsageError, "is no folder in a bucket"),
        (("rows.csv", "s3://{place}/out.txt"), UsageError, "has no known form"),
        (("rows.csv", "s3://models"), UsageError, "has no known form|is a bucket"),
        (("none.csv", "s3://{place}/out.csv"), UsageError, "does not exist"),
        (("nodriver://a/b.csv", "out.csv"), (UsageError, SourceError), "nodriver"),
    ],
)
def test_what_is_not_there_is_said(
    site: Path, place: str, where: tuple[str, str], error: Any, words: str, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("age,count,town\n1,2,x\n")
    with pytest.raises(error, match=words):
        answered(site, *(text.format(place=place) for text in where))


def test_an_output_that_cannot_be_reached_is_said_before_anything_runs(
    s3: ObjectStore, site: Path, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.csv").write_text("age,count,town\n1,2,x\n")
    proxy = Proxy(1)  # its target refuses connections
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{proxy.host}")
    with pytest.raises(SourceError, match="cannot be reached"):
        answered(site, "rows.csv", f"s3://{place}/out/out.csv")
    proxy.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv"]

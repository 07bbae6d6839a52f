# SPDX-License-Identifier: Apache-2.0
"""`packager run` over tables: columns give what rows one by one give, in every form of file, and after kills."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from packager.deploy import batch, batch_tables, table_chunks, table_files
from packager.deploy.batch_parts import Part
from packager.deploy.table_chunks import TextChunk, read_chunks
from packager.errors import StepError, UsageError
from packager.server.batch_columns import ColumnAnswers, UnfitError, fill, json_texts
from packager.server.pipeline import rows as tables
from packager.server.protocol.interface import Interface
from tests.support.breadth import examples
from tests.unit.pipelines.test_run import command, installation, kill_on_the_way, run

INTERFACE: dict[str, Any] = {
    "inputs": [
        {"name": "age", "dtype": "float32", "shape": ["rows", 1]},
        {"name": "count", "dtype": "int64", "shape": ["rows"]},
        {"name": "town", "dtype": "string", "shape": ["rows"]},
    ],
    "outputs": [
        {"name": "sum", "dtype": "float32", "shape": ["rows", 1]},
        {"name": "many", "dtype": "bool", "shape": ["rows"]},
        {"name": "place", "dtype": "string", "shape": ["rows"]},
    ],
    "dimensions": {"rows": {"min": 1}},
}


def graph() -> bytes:
    """Age and count together, whether the count is above two, and the town itself."""
    nodes = [
        helper.make_node("Cast", ["count"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["number", "one"], ["column"]),
        helper.make_node("Add", ["age", "column"], ["sum"]),
        helper.make_node("Greater", ["count", "two"], ["many"]),
        helper.make_node("Identity", ["town"], ["place"]),
    ]
    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "string": TensorProto.STRING}
    kinds["bool"] = TensorProto.BOOL
    ports = {
        role: [helper.make_tensor_value_info(p["name"], kinds[p["dtype"]], p["shape"]) for p in INTERFACE[role]]
        for role in ("inputs", "outputs")
    }
    constants = [
        onnx.numpy_helper.from_array(np.array([1], np.int64), "one"),
        onnx.numpy_helper.from_array(np.array(2, np.int64), "two"),
    ]
    made = helper.make_graph(nodes, "g", ports["inputs"], ports["outputs"], constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    (folder / "graph" / "model").mkdir(parents=True)
    (folder / "graph" / "model" / "model.onnx").write_bytes(graph())
    made: Any = SimpleNamespace(graph=folder / "graph", interface=INTERFACE)
    return installation(folder, made, raw=False)


CELLS = [
    "1",
    "-2.5",
    "1e1",
    " 3 ",
    "",
    "nan",
    "nan(1)",
    "1_0",
    "0x10",
    "old",
    "9007199254740993",
    "1e400",
    "+4",
    "007",
    "é\\b",
]


def rows_of(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    sink = io.StringIO(newline="")
    csv.writer(sink, lineterminator="\n").writerows([names, *rows])
    return sink.getvalue()


def by_rows(interface: Interface, names: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[Any], list[Any]]:
    """Return the lines of the rows with an answer and of those refused, one by one."""
    kept, refused = [], []
    for number, cells in enumerate(rows):
        row = dict(zip(names, cells, strict=True))
        try:
            taken = {port.name: row[port.name] for port in interface.inputs}
            (answer,) = tables.answers(answered(tables.feeds(interface, [taken])), 1)
            kept.append({**row, "answer": answer})
        except tables.RequestError as error:
            refused.append({"row": number, "reason": error.message, "input": row})
    return kept, refused


def answered(feeds: Any) -> dict[str, Any]:
    return {"age": feeds["age"], "count": feeds["count"], "town": feeds["town"]}


@settings(max_examples=examples(200), deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(CELLS), st.sampled_from(CELLS), st.sampled_from(CELLS)), min_size=1, max_size=9),
    st.booleans(),
    st.sampled_from(["lines", "csv", "answers"]),
)
def test_columns_of_text_are_answered_as_rows(rows: list[tuple[str, str, str]], missing: bool, form: str) -> None:
    """pyarrow reads numbers where it reads them as Python does; no value, reason or digit is another one."""
    found = Interface.from_json(INTERFACE)
    interface = Interface(found.inputs, found.outputs, found.dimensions, missing=frozenset({"age"} if missing else ()))
    names = ["age", "count", "town"]
    wanted, refused = by_rows(interface, names, rows)
    answers = ColumnAnswers(interface, answered)
    text = "".join(",".join(cells) + "\n" for cells in rows).encode()
    columns = TextChunk(names, text, len(rows)).columns(answers.numbers())
    header = {**columns.header, "form": form, "take": {name: name for name in names}, "first": 0}
    made = answers.answer(header, b"".join(columns.data))
    assert (made.rows, made.places) == (len(wanted), [item["row"] for item in refused])
    assert made.refused.decode() == "".join(f"{table_chunks._encode(item)}\n" for item in refused)
    expected = {
        "lines": lambda: "".join(f"{table_chunks._encode(item)}\n" for item in wanted),
        "csv": lambda: table_files.csv_text(wanted, [*names, "answer"]),
        "answers": lambda: "".join(f"{json.dumps(item['answer'], ensure_ascii=False)}\n" for item in wanted),
    }[form]()
    assert made.kept.decode() == expected


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(st.floats(width=64), min_size=1, max_size=20))
def test_numbers_have_the_digits_of_python(numbers: list[float]) -> None:
    finite = [number if math.isfinite(number) else None for number in numbers]
    assert json_texts(np.array(numbers)) == [json.dumps(number) for number in finite]
    with np.errstate(over="ignore"):
        narrow = np.array(numbers).astype(np.float32)
    shown = [number if math.isfinite(number) else None for number in narrow.tolist()]
    assert json_texts(narrow) == [json.dumps(number) for number in shown]


LINES = ["1,2,x", 'a,"b, c",d', 'a,"two\nlines",d', "", "short", "1,2,3,4", "x\ry", '"q""q",,', " , ,é", "\u2028,a,b"]


@settings(max_examples=examples(300), deadline=None)
@given(
    st.lists(st.sampled_from(LINES), max_size=12),
    st.integers(1, 5),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
)
def test_chunks_of_csv_are_its_rows(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], size: int, end: str, last: bool
) -> None:
    path = tmp_path_factory.mktemp("csv") / "in.csv"
    path.write_bytes(("\ufeffa,b,c" + end + end.join(lines) + (end if last else "")).encode())
    wanted = list(table_files.read_rows(path))
    chunks = list(read_chunks(path, size))
    assert [row for chunk in chunks for row in chunk.rows()] == wanted
    assert all(chunk.count == size for chunk in chunks[:-1])
    plain = [chunk for chunk in chunks if isinstance(chunk, TextChunk)]
    assert len(plain) == len(chunks) or set(b'"\r') & set(path.read_bytes()) or "" in lines


@pytest.mark.parametrize("text", [b"a,b\n1,2\n\xff,3\n", b'a,b\n1,2\n"x,3\n', b'a,b\n1,2\n"x"y,3\n'])
def test_text_that_is_no_csv_names_its_line(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "in.csv").write_bytes(text)
    with pytest.raises(UsageError, match=r"is not CSV in UTF-8: line [23]: "):
        for chunk in read_chunks(tmp_path / "in.csv", 8):
            chunk.rows()


def test_lines_of_another_width_are_read_by_rows() -> None:
    answers = ColumnAnswers(Interface.from_json(INTERFACE), answered)
    columns = TextChunk(["age", "count", "town"], b"1,2\n3,4,5,6\n", 2).columns(answers.numbers())
    header = {**columns.header, "form": "lines", "take": {}, "first": 0}
    with pytest.raises(UnfitError):
        answers.answer(header, b"".join(columns.data))


def write_table(path: Path, rows: int) -> Path:
    """A table with quotes, ragged lines, numbers that are missing and such that are none, here and there."""
    lines = ["id,age,count,town"]
    for number in range(rows):
        age = {5: "", 7: "old"}.get(number % 50, f"{number / 8}")
        town = {11: '"Zürich, ""old"""', 13: "back\\slash", 29: '"two\nlines"'}.get(number % 60, f"town {number}")
        lines.append("ragged" if number % 97 == 3 else f"{number},{age},{number % 5},{town}")
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def expected_of(path: Path) -> tuple[list[Any], list[int]]:
    """Return the rows with their answers, and the numbers of those without."""
    kept, refused = [], []
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            try:
                age, count = float(row["age"]), int(row["count"])
            except (TypeError, ValueError):
                refused.append(number)
                continue
            answer = {"sum": [float(np.float32(age) + np.float32(count))], "many": count > 2, "place": row["town"]}
            kept.append({**row, "answer": answer})
    return kept, refused


def test_every_form_has_the_same_rows(site: Path, tmp_path: Path) -> None:
    source = write_table(tmp_path / "in.csv", 700)
    wanted, refused = expected_of(source)
    for suffix in ("jsonl", "csv", "parquet"):
        done = run(site, source, "-o", tmp_path / f"out.{suffix}", "--chunk", "64", "--processes", "2")
        assert (done["rows"], done["refused"]) == (len(wanted), len(refused))
        lines = (tmp_path / f"out.{suffix}.refused.jsonl").read_text().splitlines()
        assert [json.loads(line)["row"] for line in lines] == refused
    assert (tmp_path / "out.jsonl").read_text() == "".join(f"{table_chunks._encode(row)}\n" for row in wanted)
    assert (tmp_path / "out.csv").read_bytes().decode() == rows_of(
        ["id", "age", "count", "town", "answer"],
        [[*list(row.values())[:-1], json.dumps(row["answer"], ensure_ascii=False)] for row in wanted],
    )
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert table.to_pylist() == wanted
    assert set(map(str, table.schema.types[:-1])) == {"string"} and b"packager.bundle" in table.schema.metadata
    assert table.schema.field("answer").type == pyarrow.struct(
        {"sum": pyarrow.list_(pyarrow.float32(), 1), "many": pyarrow.bool_(), "place": pyarrow.string()}
    )


def test_numbers_of_parquet(site: Path, tmp_path: Path) -> None:
    ages = [1.5, math.nan, None, 1e300, math.inf, 4.0]
    columns = {"id": pyarrow.array(range(6), pyarrow.int32()), "age": ages, "count": [1, 2, 3, 4, 5, 6]}
    columns["town"] = pyarrow.array(["a", None, "c", "d", "e", 'f"'])
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "in.parquet", row_group_size=2)
    for suffix in ("jsonl", "parquet"):
        done = run(site, tmp_path / "in.parquet", "-o", tmp_path / f"out.{suffix}", "--chunk", "4")
        assert (done["rows"], done["refused"]) == (4, 2)
        lines = (tmp_path / f"out.{suffix}.refused.jsonl").read_text().splitlines()
        assert [(json.loads(line)["row"], json.loads(line)["reason"]) for line in lines] == [
            (number, "column `age`: expected float32, got `None`") for number in (1, 2)
        ]
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["answer"]["sum"] for row in found] == [[2.5], [None], [None], [10.0]]
    assert [row["age"] for row in found] == [1.5, 1e300, "inf", 4.0]
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert table["age"].to_pylist() == [1.5, 1e300, math.inf, 4.0] and table["id"].type == pyarrow.int32()
    assert [row["place"] for row in table["answer"].to_pylist()] == ["a", "d", "e", 'f"']
    assert [row["sum"] for row in table["answer"].to_pylist()] == [[2.5], [math.inf], [math.inf], [10.0]]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_kills_change_no_byte_of_a_table(site: Path, tmp_path: Path, suffix: str) -> None:
    source, options = write_table(tmp_path / "in.csv", 4000), ("--chunk", "32", "--processes", "2")
    run(site, source, "-o", tmp_path / f"whole.{suffix}", *options)
    out = tmp_path / f"out.{suffix}"
    kill_on_the_way(command(site, source, "-o", out, *options), out, 20)
    assert run(site, source, "-o", out, *options)["rows"] > 3000
    for end in ("", ".refused.jsonl"):
        whole = tmp_path / f"whole.{suffix}{end}"
        assert out.with_name(out.name + end).read_bytes() == whole.read_bytes()


def test_an_older_installation_gets_rows(site: Path, tmp_path: Path) -> None:
    """A worker that does not say that it takes columns is asked as ever."""
    older = tmp_path / "older"
    shutil.copytree(site, older, symlinks=True)
    program = older / "releases" / "1" / "app" / "packager" / "server" / "batch.py"
    program.write_text(program.read_text().replace('"chunks": int(', '"unknown": int('))
    source = write_table(tmp_path / "in.csv", 200)
    for name, place in (("new", site), ("old", older)):
        run(place, source, "-o", tmp_path / f"{name}.jsonl")
    assert (tmp_path / "old.jsonl").read_bytes() == (tmp_path / "new.jsonl").read_bytes()


@given(
    st.lists(st.sampled_from(["a", "%%", "%%s", "s", '"', ","]), max_size=3),
    st.lists(st.lists(st.sampled_from(["", "x", "%s", "%", "é"]), min_size=3, max_size=3), max_size=8),
    st.integers(0, 3),
)
@settings(max_examples=examples(200), deadline=None)
def test_lines_are_filled_as_the_operator_fills_them(words: list[str], cells: list[list[str]], count: int) -> None:
    template = "".join(f"{word}%s" for word in ("".join(words[: place % 4]) for place in range(len(cells)))) + "".join(
        words
    )
    shown = [column[:count] for column in cells]
    expected = f"{template}\n" * count % tuple(column[place] for place in range(count) for column in shown)
    assert fill(template, shown, count) == expected


def test_a_table_sends_a_worker_what_it_takes_and_shows_refused_rows_whole(site: Path, tmp_path: Path) -> None:
    columns = {"id": [1, 2, 3], "age": [1.0, None, 3.0], "count": [1, 2, 3], "town": ["a", "b", "c"]}
    table = pyarrow.table(columns)
    (chunk,) = [table_chunks.ArrowChunk(table)]
    assert chunk.columns({}, {"age", "town"}).names == ["age", "town"]  # type: ignore[union-attr]
    assert chunk.first() == chunk.rows()[0] == {"id": 1, "age": 1.0, "count": 1, "town": "a"}
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    assert run(site, tmp_path / "in.parquet", "-o", tmp_path / "out.parquet")["refused"] == 1
    (line,) = (tmp_path / "out.parquet.refused.jsonl").read_text().splitlines()
    assert json.loads(line)["input"] == {"id": 2, "age": None, "count": 2, "town": "b"} and json.loads(line)["row"] == 1
    kept = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["id"] for row in kept] == [1, 3] and kept[1]["answer"]["sum"] == [6.0]


def test_columns_of_parquet_keep_their_types(site: Path, tmp_path: Path) -> None:
    """A dictionary of its own in each group of rows, times, decimals and lists, of which the model takes nothing."""
    when = [datetime(2026, 1, day + 1, tzinfo=UTC) for day in range(6)]
    columns = {
        "age": pyarrow.array([1, 2, None, 4, 5, 6], pyarrow.float32()),
        "count": pyarrow.array(range(6), pyarrow.int16()),
        "town": pyarrow.array(["a", "b", "a", "c", "d", "c"]).dictionary_encode(),
        "when": pyarrow.array(when, pyarrow.timestamp("us", "UTC")),
        "price": pyarrow.array([Decimal(number) / 4 for number in range(6)], pyarrow.decimal128(9, 2)),
        "tags": pyarrow.array([["x"] * number for number in range(6)]),
    }
    table = pyarrow.table(columns)
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet", row_group_size=2)
    assert run(site, tmp_path / "in.parquet", "-o", tmp_path / "out.parquet", "--chunk", "4")["refused"] == 1
    found = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert found.drop(["answer"]).schema.equals(table.schema)
    assert found.drop(["answer"]).to_pylist() == [row for number, row in enumerate(table.to_pylist()) if number != 2]
    assert found["answer"].combine_chunks().field("sum").to_pylist() == [[1.0], [3.0], [7.0], [9.0], [11.0]]


def test_lines_of_json_become_a_table_that_holds_them_all(site: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"age": 1, "count": number, "town": "a", "note": None} for number in range(4)]
    rows[2] |= {"age": 1.5, "more": "late"}
    rows[3] |= {"note": "text"}
    source = tmp_path / "in.jsonl"
    source.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    run(site, source, "-o", tmp_path / "out.parquet", "--chunk", "1")
    found = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert found["more"].to_pylist() == [None, None, "late", None] and found["note"].to_pylist()[3] == "text"
    assert found["age"].type == pyarrow.float64() and found["answer"].to_pylist()[2]["sum"] == [3.5]
    rows[3] |= {"note": 4}
    rows[2] |= {"note": "text"}
    source.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    done = subprocess.run(
        command(site, source, "-o", tmp_path / "mixed.parquet", "--chunk", "1"), capture_output=True, text=True
    )
    assert done.returncode == 2 and "no table of Parquet" in done.stderr and "JSON lines" in done.stderr


ABOUT = [
    {"name": "y", "dtype": "float32", "shape": [2]},
    {"name": "label", "dtype": "string", "shape": []},
    {"name": "on", "dtype": "bool", "shape": [1, 2]},
]


def test_arrays_and_lines_are_the_same_answers() -> None:
    kind = batch_tables.find_answer_type({"arrays": ABOUT})
    schema = pyarrow.schema([("id", pyarrow.int8()), ("answer", kind)])
    y, on = np.array([[0.1, math.nan], [math.inf, 4]], "f4"), np.array([[[True, False]], [[False, True]]])
    pieces = [y.tobytes(), b'["a","\xc3\xa9"]', on.tobytes()]
    kinds = ("<f4", "json", "|b1")
    about = [
        {"name": port["name"], "kind": kind, "size": len(piece)}
        for port, kind, piece in zip(ABOUT, kinds, pieces, strict=True)
    ]
    arrays = Part(b"".join(pieces), b"", 2, [1], about)
    lines = [
        {"y": [float(y[0, 0]), None], "label": "a", "on": [[True, False]]},
        {"y": [math.inf, 4.0], "label": "é", "on": [[False, True]]},
    ]
    by_rows = Part("".join(f"{json.dumps(line)}\n" for line in lines).encode(), b"", 2, [1])
    found = batch_tables.make_piece(arrays, 3, schema)
    assert found == batch_tables.make_piece(by_rows, 3, schema)
    answers = pyarrow.ipc.open_stream(found).read_all()["answer"].to_pylist()
    assert answers[1] is None and answers[2] == lines[1] and math.isnan(answers[0]["y"][1])


def test_an_answer_that_is_not_as_the_contract_says_is_an_error() -> None:
    schema = pyarrow.schema([("answer", batch_tables.find_answer_type({"arrays": ABOUT}))])
    for wrong in ({"y": [1.0], "label": "a", "on": [[True, False]]}, {"y": [1.0, 2.0]}):
        with pytest.raises(StepError, match="another type or shape"):
            batch_tables.make_piece(Part(f"{json.dumps(wrong)}\n".encode(), b"", 1), 1, schema)


@pytest.mark.parametrize(("dtype", "shape"), [("bfloat16", []), ("float32", [0])])
def test_outputs_that_arrow_has_no_type_for_come_as_texts(tmp_path: Path, dtype: str, shape: list[int]) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"id": [1]}), tmp_path / "in.parquet")
    about = {"arrays": [{"name": "y", "dtype": dtype, "shape": shape}]}
    job = batch._plan(about, tmp_path / "in.parquet", tmp_path / "out.parquet", batch.BatchSettings(), "sha256:1")
    assert job.form == "answers" and job.schema.field("answer").type == pyarrow.string()
    piece = batch_tables.make_piece(Part(b'{"y": []}\n', b"", 1), 1, job.schema)
    assert pyarrow.ipc.open_stream(piece).read_all()["answer"].to_pylist() == ['{"y": []}']


def test_groups_of_rows_are_large(tmp_path: Path) -> None:
    """Readers of Parquet work group by group; chunks are small, so that memory is."""
    schema = pyarrow.schema([("id", pyarrow.int64()), ("answer", pyarrow.string())])
    writer = batch_tables.TableWriter(tmp_path / "out.parquet", schema)
    for start in range(0, 300_000, 50_000):
        chunk = table_chunks.ArrowChunk(pyarrow.table({"id": range(start, start + 50_000)}))
        writer.add(chunk, batch_tables.make_piece(Part(b"1\n" * 50_000, b"", 50_000), 50_000, schema))
    writer.close()
    about = pyarrow.parquet.ParquetFile(tmp_path / "out.parquet").metadata
    assert [about.row_group(number).num_rows for number in range(about.num_row_groups)] == [150_000, 150_000]


def test_the_first_line_of_a_chunk_is_a_row() -> None:
    assert TextChunk(["a", "b"], b"1,x\n2,y\n", 2).first() == {"a": "1", "b": "x"}
    assert table_chunks.RowChunk([{"a": 1}, {"a": 2}]).first() == {"a": 1}

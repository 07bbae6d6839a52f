# SPDX-License-Identifier: Apache-2.0
"""Knowledge of runtimes: what ships is well-formed and says where it is from; what arrives is checked."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packager.runtimes import _kernels
from packager.runtimes.onnxruntime import _block_probes, probe

from packager import canonical
from packager.conform import probing
from packager.contract import runtime_tables
from packager.contract.runtime_tables import Kernels, version_key
from packager.errors import IntegrityError, NegativeAnswerError
from packager.graph import nbits
from packager.trust.keys import generate_key

SMALL = {
    "format": 1,
    "runtime": "onnxruntime",
    "serial": 7,
    "versions": {"9.1.0": {"source": "measured", "opset": {"ai.onnx": 30}, "complete": 30, "ir": 15}},
    "kernels": {"over": ["9.1.0"], "operators": {"ai.onnx": {"Add": {"14": {"o": ["T=float32"], "x": ["T=string"]}}}}},
}


@pytest.mark.parametrize("runtime", runtime_tables.list_runtimes())
def test_what_ships_says_where_it_is_from(runtime: str) -> None:
    table = runtime_tables.load_shipped(runtime)
    assert table.runtime == runtime and table.rows and table.serial >= 1
    assert list(table.rows) == sorted(table.rows, key=version_key)
    for row in table.rows.values():
        assert row.source in ("measured", "vendor")
        assert row.opset or row.inside or (runtime == "llama-cpp" and row.note), "llama.cpp reads no graph"
        for inner, version in row.inside.items():
            if inner == "onnxruntime":
                minors = {version_key(known)[:2] for known in runtime_tables.load_shipped(inner).rows}
                assert version_key(version)[:2] in minors, f"{runtime} {row.version} holds an unknown {inner} {version}"


def test_every_measured_version_has_its_kernels() -> None:
    table = runtime_tables.load_shipped("onnxruntime")
    (kernels,) = table.kernels
    assert list(kernels.over) == list(table.rows)
    combinations = sum(
        len(rows)
        for operators in kernels.operators.values()
        for definitions in operators.values()
        for patterns in definitions.values()
        for rows in patterns.values()
    )
    assert combinations > 5000


def test_a_table_grows_only_at_its_end() -> None:
    before = {"1": {"ai.onnx Abs 13 T=int8": "lacks", "ai.onnx If 11": "ok", "ai.onnx Add 7 T=int8": "fails"}}
    now = {
        "ai.onnx Abs 13 T=int8": "ok",
        "ai.onnx If 11": "fails",
        "ai.onnx Add 7 T=int8": "ok",
        "ai.onnx Neg 6 T=int8": "unclear",
        "ai.onnx Not 1 T=bool": "fails",
    }
    grown = _kernels.extend_kernels(_kernels.tabulate_kernels(before), "2", now)
    assert grown == {
        "over": ["1", "2"],
        "operators": {
            "ai.onnx": {"Abs": {"13": {"xo": ["T=int8"]}}, "Add": {"7": {"-o": ["T=int8"]}}, "If": {"11": {"ox": [""]}}}
        },
    }
    assert _kernels.extend_kernels(_kernels.tabulate_kernels(before), "2", {})["operators"]["ai.onnx"]["If"] == {
        "11": {"o-": [""]}
    }


def test_probes_that_come_later_join_and_change_nothing() -> None:
    """Versions that are not measured with them stay unknown."""
    before = _kernels.tabulate_kernels({"1": {"ai.onnx Abs 13 T=int8": "ok"}, "2": {"ai.onnx Abs 13 T=int8": "ok"}})
    grown = _kernels.fill_kernels(before, {"2": {"com.microsoft MatMulNBits 1 T1=float32": "ok"}})
    assert grown["over"] == ["1", "2"] and grown["operators"] == {
        **before["operators"],
        "com.microsoft": {"MatMulNBits": {"1": {"-o": ["T1=float32"]}}},
    }


def test_what_computes_another_product_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The installed version is right in every form; weights that are off by a thousandth are seen in each in float32."""
    python = Path(sys.executable)
    measured = probe.measure_blocks(python)
    assert set(measured.values()) == {"ok"} and len(measured) > 80
    real = nbits.dequantise
    monkeypatch.setattr(_block_probes.nbits, "dequantise", lambda *given: real(*given) * 1.001)
    planted = probe.measure_blocks(python)
    assert {planted[words] for words in planted if "T1=float32" in words and "accuracy=4" not in words} == {"fails"}


def test_parameters_that_one_side_does_not_name_do_not_count() -> None:
    kernels = Kernels(
        ("1",), {"ai.onnx": {"Pad": {"18": {"o": ["T=float32;Tind=int64"], "x": ["T=string;Tind=int64"]}}}}
    )
    assert kernels.outcomes("ai.onnx", "Pad", "18", "T=float32", "1") == "ok"
    assert kernels.outcomes("ai.onnx", "Pad", "18", "T=string", "1") == "no"
    assert kernels.outcomes("ai.onnx", "Pad", "18", "T=?", "1") == "unknown"
    assert kernels.outcomes("ai.onnx", "Pad", "18", "T=float16", "1") == "unknown"
    assert kernels.outcomes("ai.onnx", "Pad", "19", "T=float32", "1") == "unknown"


def write(folder: Path, name: str, value: object) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(canonical.dump(value))


def test_a_site_overrides_row_by_row(tmp_path: Path) -> None:
    write(tmp_path, "onnxruntime.json", SMALL)
    table = runtime_tables.SiteTables(tmp_path)("onnxruntime")
    assert [*table.rows][-1] == "9.1.0" and "1.15.0" in table.rows
    assert table.kernels_of("9.1.0") is not table.kernels_of("1.15.0")
    measured = {**SMALL, "versions": {"9.1.0": {**SMALL["versions"]["9.1.0"], "ir": 99}}}  # type: ignore[index]
    write(tmp_path, "onnxruntime.measured.json", measured)
    assert runtime_tables.SiteTables(tmp_path)("onnxruntime").rows["9.1.0"].ir == 99
    assert "9.1.0" not in runtime_tables.load_shipped("onnxruntime").rows


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"serial": "7"},
        {"runtime": "../etc"},
        {"extra": 1},
        {"versions": {"9": {"source": "hearsay"}}},
        {"versions": {"../9": {"source": "vendor"}}},
        {"versions": {"9": {"source": "vendor", "colour": "red"}}},
        {"versions": {"9": {"source": "vendor", "opset": {"ai.onnx": "many"}}}},
        {"kernels": {"over": ["9.1.0"], "operators": {"ai.onnx": {"Add": {"14": {"oo": ["T=float32"]}}}}}},
        {"kernels": {"over": ["9.1.0"], "operators": {"ai.onnx": {"Add": {"14": {"q": ["T=float32"]}}}}}},
    ],
    ids=str,
)
def test_a_damaged_table_is_refused(change: dict[str, object]) -> None:
    runtime_tables.parse(canonical.dump(SMALL), "good")
    with pytest.raises(IntegrityError, match="not a table of runtime knowledge"):
        runtime_tables.parse(canonical.dump({**SMALL, **change}), "bad")


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 99) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*SMALL, "9.1.0", "source", "over", "x"]), inner)
    ),
    max_leaves=12,
)


@given(JUNK, st.sampled_from([*SMALL, None]))
def test_hostile_tables_end_in_our_error(value: object, member: str | None) -> None:
    data = json.dumps(value if member is None else {**SMALL, member: value}).encode()
    try:
        runtime_tables.parse(data, "hostile")
    except IntegrityError as error:
        assert error.subject == "hostile"


# signed tables


def test_a_signed_table_is_taken_once_and_never_an_older_one(tmp_path: Path) -> None:
    key, other = generate_key("p256"), generate_key("p256")
    signed = probing.sign(canonical.dump(SMALL), "table", key)
    with pytest.raises(NegativeAnswerError, match="not signed by a trusted key"):
        probing.update(signed, "t", [other.public], tmp_path)
    assert not list(tmp_path.iterdir())
    assert probing.update(signed, "t", [other.public, key.public], tmp_path).serial == 7
    assert "9.1.0" in runtime_tables.SiteTables(tmp_path)("onnxruntime").rows
    for serial in (7, 6):
        again = probing.sign(canonical.dump({**SMALL, "serial": serial}), "table", key)
        with pytest.raises(NegativeAnswerError, match=f"serial {serial}, expected more than 7"):
            probing.update(again, "t", [key.public], tmp_path)
    newer = probing.sign(canonical.dump({**SMALL, "serial": 8}), "table", key)
    assert probing.update(newer, "t", [key.public], tmp_path).serial == 8


def test_another_statement_of_a_trusted_key_is_no_table(tmp_path: Path) -> None:
    from packager.formats.intoto import Statement

    key = generate_key("p256")
    statement = Statement("urn:packager:bundle:v1", "onnxruntime", "0" * 64, SMALL)
    with pytest.raises(IntegrityError, match="about something else"):
        probing.update(key.sign(statement.to_bytes()).to_bytes(), "t", [key.public], tmp_path)
    with pytest.raises(IntegrityError, match="no signed table"):
        probing.update(b"{}", "t", [key.public], tmp_path)


def test_measured_rows_gather(tmp_path: Path) -> None:
    probing.keep({**SMALL, "serial": 0}, tmp_path)
    second = json.loads(json.dumps(SMALL).replace("9.1.0", "9.2.0"))
    probing.keep({**second, "serial": 0}, tmp_path)
    table = runtime_tables.SiteTables(tmp_path)("onnxruntime")
    assert [*table.rows][-2:] == ["9.1.0", "9.2.0"]
    assert table.kernels_of("9.1.0") and table.kernels_of("9.2.0")

# SPDX-License-Identifier: Apache-2.0
"""Verifiers of others and ours against the attacks on signatures: a sample at once, everything in the slow run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.matrix import signature_verifiers as matrix
from tests.matrix.signature_attacks import KINDS, THINGS
from tests.matrix.signature_tools import TOOLS, Place, cells


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with matrix.opened(tmp_path_factory.mktemp("signatures")) as made:
        yield made


def record() -> list[matrix.Row]:
    return [json.loads(line) for line in matrix.RECORD.read_text().splitlines()]


@pytest.mark.parametrize(("thing", "kind"), [("bundle", "keyless"), ("image", "certificate"), ("directory", "p384")])
def test_ours_refuses_what_was_tampered_with(place: Place, thing: str, kind: str) -> None:
    (row,) = matrix.run(place, ["packager"], (thing,), (kind,))
    assert not row["wrong"] and not row["cannot"]
    assert row["refused"] >= 20


def test_sigstore_js_judges_as_recorded(place: Place) -> None:
    """Key, certificate and identity, each with its attacks; skipped where there is no Node.js."""
    recorded = {(row["thing"], row["kind"]): row for row in record() if row["tool"] == "sigstore-js"}
    for row in matrix.run(place, ["sigstore-js"], ("bundle",), ("key", "certificate", "keyless")):
        assert not row["wrong"]
        assert row == recorded[row["thing"], row["kind"]]


def test_the_page_is_of_the_record() -> None:
    """Every cell of every tool is there, none is wrong, and each has its 20 attacks or a reason."""
    rows = record()
    assert {(row["tool"], row["thing"], row["kind"]) for row in rows} == {
        (tool, thing, kind) for tool in TOOLS for thing in THINGS for kind in KINDS
    }
    assert not [row for row in rows if row["wrong"]]
    assert all(row["refused"] + len(row["cannot"]) >= 20 or "all" in row["cannot"] for row in rows)
    assert matrix.PAGE.read_text() == matrix.page(rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", TOOLS)
def test_every_cell(place: Place, name: str) -> None:
    if name == "cosign" and shutil.which(name) is None:
        pytest.skip("cosign is not on PATH")
    recorded = {(row["thing"], row["kind"]): row for row in record() if row["tool"] == name}
    for row in matrix.run(place, [name]):
        assert row == {**recorded[row["thing"], row["kind"]], "version": row["version"]}


def test_an_accepted_attack_is_found(place: Place) -> None:
    """The matrix itself: a tool that accepts everything, and one that refuses everything, are wrong."""

    class Gullible(matrix.Tool):
        name, accepts = "gullible", True

        def judge(self, case: matrix.Case) -> matrix.Answer:
            return matrix.Answer(self.accepts)

    (cell,) = cells(place.makers, ("directory",), ("key",))
    cases = list(cell.cases())
    tool = Gullible(place)
    assert len(matrix.judge(tool, cases)["wrong"]) == len(cases) - 1
    tool.accepts = False
    assert [text.partition(":")[0] for text in matrix.judge(tool, cases)["wrong"]] == ["sound"]


def test_no_two_attacks_of_a_cell_are_the_same(place: Place) -> None:
    for cell in cells(place.makers, ("bundle", "directory"), ("p384",)):
        cases = [(case.document, tuple(case.files.items())) for case in cell.cases()]
        assert len(set(cases)) == len(cases)


def test_files_of_a_case_are_written_below_its_folder(place: Place) -> None:
    (cell,) = cells(place.makers, ("directory",), ("key",))
    case = next(iter(cell.cases()))
    with place.written(case) as (root, document):
        assert {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} == set(case.files)
        assert isinstance(document, Path) and document.parent == root.parent

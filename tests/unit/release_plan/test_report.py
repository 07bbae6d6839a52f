# SPDX-License-Identifier: Apache-2.0
"""Reports of a release: exit codes, and that foreign text has no effect in any of the five forms."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from packager.release_plan import report
from packager.release_plan.driver import Rows
from packager.release_plan.plan import ModelRow, Problem, State, TaskRow

HOSTILE = "<script src='https://evil.example/x.js'>\x1b[2J\u202e]]>&"


def row(name: str, *states: State, code: int = 4) -> ModelRow:
    tasks = tuple(
        TaskRow(
            task,
            state,
            HOSTILE,
            1.0,
            Problem(code, HOSTILE, HOSTILE, (HOSTILE,)) if state in ("no", "failed") else None,
        )
        for task, state in zip(("lock", "build", "sign", "push"), states, strict=False)
    )
    return ModelRow(name, "1.0.0", "x/bundle.yaml", tasks, ("onnxruntime-cpu-fp32",), warnings=(HOSTILE,))


def rows(*found: ModelRow) -> Rows:
    made = Rows()
    for item in found:
        made.add(item)
    return made


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ([], 0),
        ([row("a", "done"), row("b", "unchanged")], 0),
        ([row("a", "planned")], 0),
        ([row("a", "done", "no", "skipped", code=1), row("b", "failed", code=3)], 1),
        ([row("a", "failed", code=3), row("b", "failed", "skipped", code=3)], 3),
        ([row("a", "failed", code=3), row("b", "failed", code=5)], 4),
    ],
)
def test_the_exit_code_says_whether_every_gate_holds(found: list[ModelRow], code: int) -> None:
    made = rows(*found)
    assert made.totals.exit_code == code
    assert made.totals.ok == (code == 0)


def test_rows_come_back_sorted_and_whole() -> None:
    made = rows(row("b", "done"), row("a", "failed"))
    assert list(made) == [row("a", "failed"), row("b", "done")]


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


def test_foreign_text_has_no_effect(tmp_path: Path) -> None:
    made = rows(row("a" + HOSTILE, "done", "no", "skipped", code=1), row("b", "failed"), row("c", "unchanged", "done"))
    report.write(made, tmp_path / "out")
    page = Page()
    text = (tmp_path / "out" / "index.html").read_text()
    page.feed(text)
    assert "script" not in page.found and page.addresses == []
    assert "main" in page.found and "default-src 'none'" in text
    found = ET.parse(tmp_path / "out" / "junit.xml").getroot()
    assert {item.tag for item in found.iter()} == {"testsuites", "testsuite", "testcase", "failure", "error", "skipped"}
    assert [suite.get("failures") for suite in found] == ["1", "0", "0"]
    document = json.loads((tmp_path / "out" / "release.json").read_text())
    assert document == report.build_document(made)
    everything = text + (tmp_path / "out" / "junit.xml").read_text() + (tmp_path / "out" / "release.json").read_text()
    log = (tmp_path / "out" / "release.sarif").read_text()
    results = json.loads(log)["runs"][0]["results"]
    assert [(one["ruleId"], one["ruleIndex"]) for one in results] == [("build", 1), ("lock", 0)]
    everything += log + "\n".join([*report.render_table(made), *report.render_plan(made)]).replace(
        HOSTILE, ""
    )  # the console escapes those
    assert "\x1b" not in everything and "\u202e" not in everything


def test_sarif_names_the_recipe_from_the_release_file_on(tmp_path: Path) -> None:
    made = Rows(tmp_path)
    bad = row("a", "done", "no", code=1)
    made.add(replace(bad, recipe=str(tmp_path / "models a" / "bundle.yaml")))
    report.write(made, tmp_path / "out")
    (result,) = json.loads((tmp_path / "out" / "release.sarif").read_text())["runs"][0]["results"]
    place = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert place == "models%20a/bundle.yaml" and result["level"] == "error"


@pytest.mark.slow
def test_sarif_is_what_its_schema_says(tmp_path: Path) -> None:
    from tests.unit.policy.test_policies import sarif_schema

    jsonschema = pytest.importorskip("jsonschema")
    for made in (rows(), rows(row("a", "done", "no", code=1), row("b", "failed"))):
        report.write(made, tmp_path)
        log = json.loads((tmp_path / "release.sarif").read_text())
        jsonschema.Draft4Validator(sarif_schema()).validate(log)
    log["runs"][0]["results"][0]["level"] = "grave"
    assert not jsonschema.Draft4Validator(sarif_schema()).is_valid(log)


def test_files_are_replaced_whole(tmp_path: Path) -> None:
    report.write(rows(row("a", "done")), tmp_path)
    report.write(rows(row("b", "done")), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(report.FILES)
    assert "b:1.0.0" in (tmp_path / "index.html").read_text()

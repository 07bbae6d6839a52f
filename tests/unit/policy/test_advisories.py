# SPDX-License-Identifier: Apache-2.0
"""Advisories, offline: ranges, lists, withdrawal, age; and VEX, which counts only from trusted signers.

Real identifiers with their published ranges are in `ADVISORIES`; the rest is made up here.
"""

from __future__ import annotations

import datetime
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from packager import canonical
from packager.bundle.bundle import SBOM
from packager.canonical import JSON
from packager.errors import UsageError
from packager.formats.intoto import Statement
from packager.policy import advisories, engine, facts, vex
from packager.policy.engine import Profile
from packager.policy.facts import Content
from packager.trust.evidence import Evidence
from packager.trust.verifiers import Attested
from packager.types import Blob, Tree

DAY = datetime.date(2026, 11, 21)


def advisory(name: str, package: str, events: list[dict[str, str]], **more: Any) -> dict[str, Any]:
    affected = {"package": {"ecosystem": "PyPI", "name": package}, "ranges": [{"type": "ECOSYSTEM", "events": events}]}
    return {
        "id": name,
        "modified": "2026-11-20T10:00:00Z",
        "affected": [affected],
        "database_specific": {"severity": "HIGH"},
        **more,
    }


def span(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{kind: version} for kind, version in pairs]


ADVISORIES = [
    advisory(
        "GHSA-53q9-r3pm-6pq6",
        "torch",
        span(("introduced", "0"), ("fixed", "2.6.0")),
        aliases=["CVE-2025-32434"],
        database_specific={"severity": "CRITICAL"},
    ),
    advisory("GHSA-8q59-q68h-6hv4", "PyYAML", span(("introduced", "0"), ("fixed", "5.4")), aliases=["CVE-2020-14343"]),
    advisory(
        "GHSA-34jh-p97f-mpxf",
        "urllib3",
        span(("introduced", "0"), ("fixed", "1.26.19"), ("introduced", "2.0.0"), ("fixed", "2.2.2")),
        aliases=["CVE-2024-37891"],
        database_specific={"severity": "MODERATE"},
    ),
    advisory("TEST-withdrawn", "torch", span(("introduced", "0")), withdrawn="2026-01-01T00:00:00Z"),
    advisory(
        "TEST-listed",
        "jinja2",
        [],
        affected=[{"package": {"ecosystem": "PyPI", "name": "Jinja2"}, "versions": ["3.0.0", "3.0"]}],
        database_specific={},
    ),
    advisory("TEST-npm", "x", [], affected=[{"package": {"ecosystem": "npm", "name": "torch"}, "versions": ["2.5.1"]}]),
    advisory("TEST-last", "click", span(("introduced", "8.0"), ("last_affected", "8.1.3"))),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = "\n".join(json.dumps(item) for item in ADVISORIES)
    (tmp_path / "osv.jsonl").write_text(lines + "\n")
    advisories.import_file(tmp_path / "osv.jsonl", tmp_path / "known")
    return tmp_path / "known"


@pytest.mark.parametrize(
    ("pin", "ids"),
    [
        ("torch 2.5.1", ["GHSA-53q9-r3pm-6pq6"]),
        ("torch 2.6.0", []),
        ("torch 2.6.0rc1", ["GHSA-53q9-r3pm-6pq6"]),
        ("torch 2.6.0+cu124", []),
        ("pyyaml 5.3.1", ["GHSA-8q59-q68h-6hv4"]),
        ("pyyaml 5.4", []),
        ("urllib3 1.26.18", ["GHSA-34jh-p97f-mpxf"]),
        ("urllib3 1.26.19", []),
        ("urllib3 2.0.7", ["GHSA-34jh-p97f-mpxf"]),
        ("urllib3 2.2.2", []),
        ("Jinja2 3.0", ["TEST-listed"]),
        ("jinja2 3.0.1", []),
        ("click 8.1.3", ["TEST-last"]),
        ("click 8.1.4", []),
        ("click 7.9", []),
        ("numpy 2.1.0", []),
        ("torch not-a-version", ["GHSA-53q9-r3pm-6pq6"]),
    ],
)
def test_ranges_lists_withdrawal_and_ecosystems(folder: Path, pin: str, ids: list[str]) -> None:
    name, version = pin.split(" ")
    assert [hit.id for hit in advisories.match(folder, [(name, version)])] == ids


@given(st.lists(st.integers(0, 30), min_size=1, max_size=6, unique=True), st.integers(0, 31))
def test_between_introduced_and_fixed_is_affected(places: list[int], at: int) -> None:
    kinds = ("introduced", "fixed")
    events = [{kinds[number % 2]: f"1.{place}"} for number, place in enumerate(sorted(places))]
    before = sum(place <= at for place in places)
    expected = before % 2 == 1
    item = {"ranges": [{"type": "ECOSYSTEM", "events": events[::-1]}]}
    assert advisories.is_affected(str(Version(f"1.{at}")), item) == expected


def test_an_import_is_whole_or_not_at_all(folder: Path, tmp_path: Path) -> None:
    before = advisories.read_database(folder)
    assert before is not None
    assert (before.count, before.newest) == (5, "2026-11-20T10:00:00Z")
    (tmp_path / "bad.jsonl").write_text(json.dumps(ADVISORIES[0]) + "\n{broken\n")
    (tmp_path / "empty.jsonl").write_text(json.dumps(ADVISORIES[5]) + "\n")
    for name, words in (("bad.jsonl", "bad.jsonl:2"), ("empty.jsonl", "no advisory"), ("absent.zip", "cannot read")):
        with pytest.raises(UsageError, match=words):
            advisories.import_file(tmp_path / name, folder)
    assert advisories.read_database(folder) == before
    assert [path.name for path in folder.iterdir()] == [advisories.FILE]


def test_zip_json_lines_and_json_are_the_same(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for item in ADVISORIES:
            archive.writestr(f"{item['id']}.json", json.dumps(item))
    advisories.import_file(tmp_path / "all.zip", tmp_path / "zipped")
    pins = [("torch", "2.5.1"), ("click", "8.0"), ("urllib3", "2.0.7")]
    assert advisories.match(tmp_path / "zipped", pins) == advisories.match(folder, pins)
    (tmp_path / "one.json").write_text(json.dumps(ADVISORIES[0]))
    assert advisories.import_file(tmp_path / "one.json", tmp_path / "one").count == 1


def test_a_damaged_database_is_one_clear_error(folder: Path) -> None:
    (folder / advisories.FILE).write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(UsageError, match="cannot be read"):
        advisories.read_database(folder)


# facts, VEX, verdicts

OPENVEX = {
    "statements": [
        {
            "vulnerability": {"name": "CVE-2025-32434"},
            "products": [{"@id": "pkg:pypi/torch@2.5.1"}],
            "status": "not_affected",
            "justification": "vulnerable_code_not_in_execute_path",
        }
    ]
}
CYCLONEDX = {
    "vulnerabilities": [
        {
            "id": "CVE-2025-32434",
            "affects": [{"ref": "pkg:pypi/torch@2.5.1"}],
            "analysis": {"state": "not_affected", "detail": "no pickle is ever opened"},
        }
    ]
}


def said(kind: str, predicate: JSON) -> Evidence:
    statement = Statement(kind, "n:1", "0" * 64, predicate)
    return Evidence("sha256:" + "0" * 64, statement, Attested(statement.to_bytes(), "security", "key", None))


def judged(folder: Path, tmp_path: Path, *evidence: Evidence, day: datetime.date = DAY) -> list[str]:
    row = {"type": "library", "name": "torch", "version": "2.5.1"}
    data = canonical.dump({"components": [row, {**row, "name": "numpy"}]})
    (tmp_path / SBOM).write_bytes(data)
    tree = Tree.of({SBOM: Blob(canonical.sha256(data), len(data))})
    content = Content("n", "1", tree, lambda path, blob: (tmp_path / path).open("rb"))
    found = {"today": day.isoformat(), **facts._vulnerabilities(content, evidence, folder)}
    return [finding.subject for finding in engine.judge(Profile("p", ("vulnerabilities",)), found, day).findings]


PLANTED = ["torch==2.5.1/GHSA-53q9-r3pm-6pq6"]


def test_the_planted_version_is_found(folder: Path, tmp_path: Path) -> None:
    assert judged(folder, tmp_path) == PLANTED


@pytest.mark.parametrize(("kind", "document"), [(vex.OPENVEX, OPENVEX), (vex.CYCLONEDX[0], CYCLONEDX)])
def test_trusted_vex_counts_only_with_a_reason(folder: Path, tmp_path: Path, kind: str, document: JSON) -> None:
    assert judged(folder, tmp_path, said(kind, document)) == []
    text = json.dumps(document)
    for old, new in (
        ("2.5.1", "2.5.0"),
        ("CVE-2025-32434", "CVE-2025-1"),
        ("justification", "why"),
        ("detail", "why"),
        ("not_affected", "under_investigation"),
    ):
        if old in text:
            assert judged(folder, tmp_path, said(kind, json.loads(text.replace(old, new)))) == PLANTED, old


def test_vex_claim_that_it_applies_overrides_the_opposite(folder: Path, tmp_path: Path) -> None:
    affected = json.loads(json.dumps(OPENVEX).replace("not_affected", "affected"))
    assert judged(folder, tmp_path, said(vex.OPENVEX, OPENVEX), said(vex.OPENVEX, affected)) == PLANTED
    broken = {"statements": [*OPENVEX["statements"], 7]}
    assert judged(folder, tmp_path, said(vex.OPENVEX, broken)) == PLANTED
    assert judged(folder, tmp_path, said(vex.OPENVEX, {"statements": [7]}), said("urn:other", OPENVEX)) == PLANTED


def test_old_advisories_are_refused(folder: Path, tmp_path: Path) -> None:
    late = DAY + datetime.timedelta(days=14)
    assert judged(folder, tmp_path, said(vex.OPENVEX, OPENVEX), day=late) == ["advisories"]


def test_without_advisories_nothing_is_known(tmp_path: Path) -> None:
    assert judged(tmp_path / "none", tmp_path) == ["facts"]

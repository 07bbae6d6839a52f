# SPDX-License-Identifier: Apache-2.0
"""Paths, trees and keys."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from packager.canonical import sha256
from packager.errors import IntegrityError
from packager.types import Action, Blob, Finding, Tree, Verdict, check_path, check_paths, set_digest

BAD_PATHS = [
    "",
    "/etc/passwd",
    "../x",
    "a/../b",
    "a//b",
    "./m",
    "a\\b",
    "C:x",
    "a\x00b",
    "a\nb",
    "con",
    "aux.txt",
    "x.",
    "x ",
    "a" * 256,
    "a/" * 600 + "b",
    "e\u0301",
    "a\u202eb",
    "a\u200bb",
    "\ud800",
    "a?b",
    "a*b",
]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_unsafe_paths_are_refused(path: str) -> None:
    with pytest.raises(IntegrityError):
        check_path(path)


@pytest.mark.parametrize(
    "path", ["a", "model/model.onnx", ".packager", "ü/é.json", "deps/x/requirements.txt", "a-b_c.1"]
)
def test_ordinary_paths_are_accepted(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize("paths", [["a", "A"], ["straße", "STRASSE"], ["a", "a/b"], ["a/b", "A/b/c"]])
def test_colliding_paths_are_refused(paths: list[str]) -> None:
    with pytest.raises(IntegrityError, match=r"collides|directory"):
        check_paths(paths)


def test_a_tree_is_its_content_not_its_order() -> None:
    blob, other = Blob(sha256(b"1"), 1), Blob(sha256(b"2"), 1)
    assert Tree.of({"b": blob, "a": other}).digest == Tree.of({"a": other, "b": blob}).digest
    assert Tree.of({"a": blob}).digest != Tree.of({"b": blob}).digest
    assert Tree.from_json(Tree.of({"a": blob}).to_json()) == Tree.of({"a": blob})


def test_the_set_digest_is_what_sha256sum_prints(tmp_path: Path) -> None:
    contents = {"b.txt": b"two", "a/x.bin": bytes(1000), "a.json": b"{}"}
    for name, data in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    script = "sha256sum $(find . -type f -printf '%P\\n' | LC_ALL=C sort) | sha256sum"
    printed = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert set_digest((n, Blob(sha256(d), len(d))) for n, d in contents.items()) == f"sha256:{printed.split()[0]}"


def test_every_part_of_an_action_is_in_its_key() -> None:
    base = Action("export", 1, {"source": "a"}, {"opset": 18}, {"torch": "2.13.0"})
    others = [
        Action("compile", 1, base.inputs, base.params, base.toolchain),
        Action("export", 2, base.inputs, base.params, base.toolchain),
        Action("export", 1, {"source": "b"}, base.params, base.toolchain),
        Action("export", 1, base.inputs, {"opset": 17}, base.toolchain),
        Action("export", 1, base.inputs, base.params, {"torch": "2.12.0"}),
    ]
    assert len({base.key, *(other.key for other in others)}) == 6


def test_a_key_never_changes_by_accident() -> None:
    """A golden key: changing it throws every user's cache away, and must be a decision."""
    action = Action("export", 1, {"source": "sha256:00"}, {"opset": 18, "atol": 1e-5}, {"torch": "2.13.0"})
    assert action.key == "sha256:94b8de9166ae8ce3e23b53baeaa4eeb6899849964aef78ec037166b4ad7588b0"


def test_no_rule_asked_is_not_a_pass() -> None:
    assert not Verdict((), ()).ok
    assert Verdict(("parity",), ()).ok
    assert Verdict(("parity",), (Finding("parity", "warning", "y", "close"),)).ok
    assert not Verdict(("parity",), (Finding("parity", "error", "y", "off"),)).ok


def test_held_rules_ran_and_passed() -> None:
    found = (
        Finding("slo", "warning", "p99", "close"),
        Finding("budget", "note", "size", "small"),
        Finding("sbom", "note", "x", "waived", waiver={"owner": "a"}),
        Finding("parity", "error", "y", "off"),
    )
    verdict = Verdict(("parity", "slo", "budget", "sbom", "engines", "signature"), found, deferred=("signature",))
    assert verdict.held == ("budget", "engines")
    assert verdict.to_json()["held"] == ["budget", "engines"]

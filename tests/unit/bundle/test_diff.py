# SPDX-License-Identifier: Apache-2.0
"""Semantic differences: weaker promises are major, stronger ones minor, and a build cannot break callers unnoticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packager import canonical
from packager.bundle import changes, diff, version_step
from packager.bundle.bundle import CONTRACT, Bundle
from packager.errors import NegativeAnswerError, UsageError
from packager.recipe import recipe
from packager.store.store import Store
from tests.support import bundles, contracts

INPUT = {"name": "x", "dtype": "float32", "shape": ["batch", 4]}
OUTPUT = {"name": "y", "dtype": "float32", "shape": ["batch", 2]}
TIGHT = contracts.RECIPE + "tolerance: {default: {atol: 1.0e-7}}\n"


def level(before: Any, after: Any) -> tuple[str, list[str]]:
    """Return the needed level, and what changed."""
    found = diff.compare_contracts(contracts.read(before), contracts.read(after))
    needed = changes.Difference("1.0.0", "1.0.1", tuple(found)).needed
    return needed, [f"{change.area}: {change.subject}: {change.message}" for change in found]


def test_nothing_changed_is_nothing() -> None:
    assert level(contracts.derived(), contracts.derived()) == ("none", [])


@pytest.mark.parametrize(
    ("interface", "needed", "message"),
    [
        ({"inputs": [{**INPUT, "name": "z"}]}, "major", "input is gone"),
        ({"inputs": [INPUT, {**INPUT, "name": "z"}]}, "major", "input is new"),
        ({"inputs": [{**INPUT, "dtype": "float64"}]}, "major", "input was float32, now is float64"),
        ({"inputs": [{**INPUT, "shape": ["batch", 5]}]}, "major", "axis 1 took 4, now takes 5"),
        ({"inputs": [{**INPUT, "shape": ["batch", 4, 1]}]}, "major", "input had 2 axes, now has 3"),
        ({"dimensions": {"batch": {"min": 1, "max": 4}}}, "major", "axis 0 took 1 to 8, now takes 1 to 4"),
        ({"dimensions": {"batch": {"min": 1, "max": 64}}}, "minor", "axis 0 took 1 to 8, now takes 1 to 64"),
        ({"outputs": []}, "major", "output is gone"),
        ({"outputs": [OUTPUT, {**OUTPUT, "name": "z"}]}, "minor", "output is new"),
        ({"outputs": [{**OUTPUT, "dtype": "float16"}]}, "major", "output was float32, now is float16"),
        ({"outputs": [{**OUTPUT, "shape": ["batch", 3]}]}, "major", "output had the shape"),
    ],
    ids=str,
)
def test_the_interface(interface: dict[str, Any], needed: str, message: str) -> None:
    found, changes = level(contracts.derived(), contracts.derived(**interface))
    assert found == needed and any(message in change for change in changes), changes


def test_the_name_of_a_dimension_is_nobodys_business() -> None:
    renamed = contracts.derived(
        inputs=[{**INPUT, "shape": ["n", 4]}],
        outputs=[{**OUTPUT, "shape": ["n", 2]}],
        dimensions={"n": {"min": 1, "max": 8}},
    )
    assert level(contracts.derived(), renamed) == ("none", [])


@pytest.mark.parametrize(
    ("before", "after", "needed"),
    [
        ({}, {"x": [0, 1]}, "major"),
        ({"x": [0, 1]}, {}, "minor"),
        ({"x": [0, 1]}, {"x": [0, 2]}, "minor"),
        ({"x": [0, 2]}, {"x": [0, 1]}, "major"),
    ],
)
def test_ranges_of_values(before: Any, after: Any, needed: str) -> None:
    """What the source refuses is a limit; what was only measured is none, and narrower is worth a note."""
    assert (
        level(contracts.derived(ranges=before, firm=("x",)), contracts.derived(ranges=after, firm=("x",)))[0] == needed
    )
    assert level(contracts.derived(ranges=before), contracts.derived(ranges=after))[0] == "minor"


def spans(**batch: Any) -> Any:
    return contracts.derived(dimensions={"batch": batch})


@pytest.mark.parametrize(
    ("before", "after", "needed"),
    [
        ({"min": 1, "max": 8, "limit": {"min": 1}}, {"min": 1, "max": 8}, "major"),
        ({"min": 1, "max": 8}, {"min": 1, "max": 8, "limit": {"min": 1}}, "minor"),
        ({"min": 1, "max": 64, "limit": {"min": 1}}, {"min": 1, "max": 8, "limit": {"min": 1}}, "minor"),
        ({"min": 1, "max": 64}, {"min": 32, "max": 64, "step": 32, "limit": {"min": 32, "step": 32}}, "major"),
        ({"min": 4, "max": 8, "values": [4, 8]}, {"min": 4, "max": 8}, "minor"),
        ({"min": 4, "max": 8}, {"min": 4, "max": 8, "values": [4, 8]}, "major"),
        ({"min": 1, "max": 8}, {"min": 1, "max": 8, "is": [2, "other"]}, "major"),
        (
            {"min": 32, "max": 96, "step": 32, "limit": {"min": 32, "step": 32}},
            {"min": 32, "max": 96, "step": 32, "limit": {"min": 32, "step": 32, "also": [1]}},
            "minor",
        ),
        (
            {"min": 32, "max": 96, "step": 32, "limit": {"min": 32, "step": 32, "also": [1, 3]}},
            {"min": 32, "max": 96, "step": 32, "limit": {"min": 32, "step": 32, "also": [1]}},
            "major",
        ),
        (
            {"min": 32, "max": 96, "step": 32, "limit": {"min": 32, "step": 32, "also": [1]}},
            {"min": 32, "max": 96, "step": 32, "limit": {"min": 1}},
            "minor",
        ),
    ],
)
def test_a_limit_is_a_promise_and_a_measurement_a_note(before: Any, after: Any, needed: str) -> None:
    found, changes = level(spans(**before), spans(**after))
    assert found == needed
    if needed == "minor" and before.get("max") == 64:
        assert any("less than before" in str(change) for change in changes)


@pytest.mark.parametrize(
    ("old", "new", "needed"),
    [
        (">=1.17", ">=1.18", "major"),
        (">=1.17", ">=1.16", "minor"),
        (">=1.17", ">=1.17.0", "patch"),
        (">=1.17", ">=1.17,<1.25", "major"),
    ],
)
def test_promised_versions(old: str, new: str, needed: str) -> None:
    before, after = (contracts.RECIPE.replace('">=1.17"', f'"{text}"') for text in (old, new))
    assert level(contracts.derived(before), contracts.derived(after))[0] == needed


def test_runtimes_targets_tolerances_and_objectives() -> None:
    without = contracts.RECIPE.replace('  triton: ">=24.04"\n', "")
    assert level(contracts.derived(), contracts.derived(without))[0] == "major"
    assert level(contracts.derived(without), contracts.derived())[0] == "minor"
    assert level(contracts.derived(), contracts.derived(TIGHT))[0] == "minor"
    assert level(contracts.derived(TIGHT), contracts.derived())[0] == "major"
    faster = contracts.RECIPE.replace("p99_ms: 5", "p99_ms: 4")
    assert level(contracts.derived(), contracts.derived(faster))[0] == "minor"
    assert level(contracts.derived(faster), contracts.derived())[0] == "major"
    calmer = contracts.RECIPE.replace("at_rps: 200", "at_rps: 100")
    assert level(contracts.derived(), contracts.derived(calmer))[0] == "major"


def test_another_graph_behind_the_same_promises_is_a_patch() -> None:
    needed, changes = level(contracts.derived(), contracts.derived(graph="encoder"))
    assert needed == "patch"
    assert any("LayerNormalization: operator is new" in change for change in changes)


# versions


@pytest.mark.parametrize(
    ("before", "after", "taken"),
    [
        ("1.2.3", "1.2.4", "patch"),
        ("1.2.3", "1.3.0", "minor"),
        ("1.2.3", "2.0.0", "major"),
        ("1.2.3", "1.2.3", "none"),
        ("1.2.3", "1.2.2", "none"),
        ("0.2.3", "0.3.0", "major"),
        ("0.2.3", "0.2.4", "minor"),
        ("0.0.3", "0.0.4", "major"),
        ("1.0.0-rc.1", "1.0.0", "major"),
        ("1.0.0", "1.0.1-rc.1", "patch"),
        ("1.0.0", "1.0.0-rc.1", "none"),
    ],
)
def test_a_step_of_versions(before: str, after: str, taken: str) -> None:
    assert changes.compare_versions(before, after) == taken


NUMBERS = st.integers(0, 12)


@given(NUMBERS, NUMBERS, NUMBERS, st.sampled_from(["patch", "minor", "major"]))
def test_the_suggested_version_is_a_large_enough_step(major: int, minor: int, patch: int, needed: Any) -> None:
    before = f"{major}.{minor}.{patch}"
    levels = ["none", "patch", "minor", "major"]
    assert levels.index(changes.compare_versions(before, changes.next_version(before, needed))) >= levels.index(needed)


# bundles


def bundle(store: Store, version: str, **interface: Any) -> Bundle:
    files = {CONTRACT: canonical.dump(contracts.derived(**interface))}
    return bundles.make(store, files, "net", version)


def test_weights_and_files_are_counted(tmp_path: Path) -> None:
    store = bundles.store_in(tmp_path)
    contract = {CONTRACT: canonical.dump(contracts.derived())}
    lock = b"numpy==2.1.0 \\\n    --hash=sha256:00\n"
    before = bundles.make(store, {**contract, "deps/onnxruntime/requirements.txt": lock}, "net", "1.0.0")
    after = bundles.make(
        store,
        {
            **contract,
            "model/weights-0001.bin": b"\1" * 10240,
            "MODEL_CARD.md": b"# new",
            "deps/onnxruntime/requirements.txt": lock.replace(b"2.1", b"2.2"),
        },
        "net",
        "1.0.1",
    )
    found = diff.diff(before, after)
    said = {f"{change.area}: {change.subject}": change.message for change in found.changes}
    assert said == {
        "weights: model": "1 of 2 files differ, 10240 of 10245 bytes to transfer",
        "files: MODEL_CARD.md": "changed",
        "dependencies of onnxruntime: numpy": "was 2.1.0, now 2.2.0",
    }
    assert (found.needed, found.taken, found.ok) == ("patch", "patch", True)


def check(store: Store, version: str, base: Path, extra: str = "", **interface: Any) -> None:
    parsed = recipe.parse(contracts.RECIPE.replace("1.0.0", version) + extra, "bundle.yaml")
    version_step.check_step(parsed, contracts.derived(**interface), store, base)


def test_a_build_cannot_break_callers_without_a_major_version(tmp_path: Path) -> None:
    store = bundles.store_in(tmp_path)
    bundle(store, "1.0.0")
    broken = {"outputs": [{**OUTPUT, "name": "z"}]}
    check(store, "1.0.1", tmp_path)
    with pytest.raises(
        NegativeAnswerError, match=r"`net:1\.1\.0` breaks the interface of 1\.0\.0: `y` output is gone"
    ) as caught:
        check(store, "1.1.0", tmp_path, **broken)
    assert "release it as 2.0.0" in (caught.value.hint or "") and "previous: none" in (caught.value.hint or "")
    check(store, "2.0.0", tmp_path, **broken)
    check(store, "0.9.0", tmp_path, **broken)
    check(store, "1.1.0", tmp_path, "previous: none\n", **broken)


def test_another_model_of_the_same_name_is_called_so(tmp_path: Path) -> None:
    store = bundles.store_in(tmp_path)
    bundle(store, "1.0.0")
    other = {"inputs": [{"name": "audio", "dtype": "float32", "shape": ["batch", 4]}]}
    with pytest.raises(
        NegativeAnswerError, match=r"^`net:1\.0\.0` in the store is another model: it takes `x`$"
    ) as caught:
        check(store, "1.1.0", tmp_path, **other)
    assert "a `name` of its own" in (caught.value.hint or "")
    check(store, "2.0.0", tmp_path, **other)


def test_the_release_before_is_the_newest_older_one_or_the_named_one(tmp_path: Path) -> None:
    store = bundles.store_in(tmp_path)
    other = {"outputs": [OUTPUT, {**OUTPUT, "name": "z"}]}
    bundle(store, "1.9.0")
    bundle(store, "1.10.0", **other)
    bundle(store, "3.0.0")
    with pytest.raises(NegativeAnswerError, match=r"breaks the interface of 1\.10\.0"):
        check(store, "1.11.0", tmp_path)
    check(store, "1.11.0", tmp_path, "previous: 1.9.0\n")
    check(store, "1.11.0", tmp_path, "previous: net:1.9.0\n")
    with pytest.raises(UsageError, match="no bundle"):
        check(store, "1.11.0", tmp_path, "previous: 1.8.0\n")


def test_release_before_is_ordered_by_precedence(tmp_path: Path) -> None:
    store = bundles.store_in(tmp_path)
    for version in ("1.9.0-rc.9", "1.9.0-rc.10", "1.9.0-beta.11"):
        bundle(store, version)
    parsed = recipe.parse(contracts.RECIPE.replace("1.0.0", "1.9.0"), "bundle.yaml")
    found = version_step.release_before(parsed, store, tmp_path)
    assert found is not None
    assert found.version == "1.9.0-rc.10"


def test_a_previous_release_with_a_newer_contract_is_named(tmp_path: Path) -> None:
    store = bundles.store_in(tmp_path)
    bundles.assemble_named(store, {CONTRACT: b'{"format":9,"ports":[]}'}, "net", "1.0.1")
    with pytest.raises(UsageError, match="cannot compare with the previous release of `net`") as got:
        check(store, "1.0.2", tmp_path)
    assert "previous: none" in (got.value.hint or "")
    check(store, "1.0.2", tmp_path, "previous: none\n")


GENERATION: dict[str, Any] = {
    "task": "text-generation",
    "architecture": "LlamaForCausalLM",
    "vocabulary": 512,
    "context": 256,
    "special": {"bos": None, "eos": [0], "pad": 0},
    "cache": {"layers": 2, "bytes": 512},
    "tokenizer": "sha256:" + "a" * 64,
    "template": None,
    "sampling": {},
}


@pytest.mark.parametrize(
    ("change", "needed"),
    [
        ({}, "none"),
        ({"tokenizer": "sha256:" + "b" * 64}, "major"),
        ({"template": "sha256:" + "b" * 64}, "major"),
        ({"vocabulary": 513}, "major"),
        ({"special": {"bos": None, "eos": [0, 3], "pad": 0}}, "major"),
        ({"context": 128}, "major"),
        ({"context": 512}, "minor"),
        ({"sampling": {"temperature": 0.7}}, "minor"),
    ],
)
def test_other_tokens_break_callers(change: dict[str, Any], needed: str) -> None:
    before, after = ({**contracts.derived(), "generation": {**GENERATION, **more}} for more in ({}, change))
    assert level(before, after)[0] == needed


def test_a_task_that_comes_or_goes_breaks_callers() -> None:
    before, after = contracts.derived(), {**contracts.derived(), "generation": GENERATION}
    assert level(before, after)[0] == level(after, before)[0] == "major"

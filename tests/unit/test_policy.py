# SPDX-License-Identifier: Apache-2.0
"""Rules judge facts: exactly, and never in favour of what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packager import plugins, policy
from packager.canonical import JSON
from packager.errors import UsageError
from packager.policy import Profile


def facts(**output: JSON) -> dict[str, JSON]:
    measured = {"dtype": "float32", "shape": [2], "not_finite": 0, "frontier": [], **output}
    case = {"name": "batch=2", "outputs": {"y": measured}}
    target = {"precision": "fp32", "tolerance": {"y": {"atol": 1e-3, "rtol": 1e-2}}, "cases": [case]}
    return {"nondeterministic": [], "targets": {"onnxruntime-cpu-fp32": target}}


def point(difference: float, magnitude: float) -> JSON:
    return {"difference": difference, "magnitude": magnitude, "index": [1], "expected": magnitude, "got": 0.0}


RELEASE = policy.profile("release", Path())


def test_within_tolerance_holds() -> None:
    assert policy.judge(RELEASE, facts(frontier=[point(1e-3, 0.0), point(0.0109, 1.0)])).ok


def test_a_miss_names_everything() -> None:
    verdict = policy.judge(RELEASE, facts(frontier=[point(0.5, 10.0), point(0.02, 1.0), point(1e-4, 0.0)]))
    (finding,) = verdict.findings
    assert not verdict.ok
    for word in ("onnxruntime-cpu-fp32", "batch=2", "`y`", "worst element [1]", "expected 10.0", "got 0.0", "0.101"):
        assert word in finding.message


@given(
    st.lists(st.tuples(st.floats(0, 1e3), st.floats(0, 1e3)), min_size=1, max_size=6), st.floats(0, 10), st.floats(0, 1)
)
def test_parity_is_allclose(points: list[tuple[float, float]], atol: float, rtol: float) -> None:
    given_facts = facts(frontier=[point(d, m) for d, m in points])
    given_facts["targets"]["onnxruntime-cpu-fp32"]["tolerance"]["y"] = {"atol": atol, "rtol": rtol}
    within = all(d <= atol + rtol * m for d, m in points)
    assert policy.judge(Profile("p", ("parity",)), given_facts).ok == within


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ({"got": {"dtype": "float16", "shape": [2]}}, "expected float32[2], got float16[2]"),
        ({"unequal": 3, "first_unequal": {"index": [0], "expected": 1, "got": 2}}, "3 elements differ"),
        ({"not_finite": 1, "first_not_finite": {"index": [0], "expected": "nan", "got": 1.0}}, "NaN or infinity"),
    ],
)
def test_other_kinds_of_difference(output: dict[str, JSON], words: str) -> None:
    (finding,) = policy.judge(RELEASE, facts(**output)).findings
    assert words in finding.message


def test_not_measured_is_not_a_pass() -> None:
    empty = facts()
    empty["targets"]["onnxruntime-cpu-fp32"]["cases"] = []
    assert not policy.judge(RELEASE, empty).ok
    assert not policy.judge(RELEASE, {"nondeterministic": [], "targets": {}}).ok


@pytest.mark.parametrize("rule", plugins.names("policies"))
def test_a_missing_fact_fails_closed(rule: str) -> None:
    verdict = policy.judge(Profile("p", (rule,)), {})
    assert not verdict.ok
    assert "missing" in verdict.findings[0].message


def test_random_operators_are_refused() -> None:
    verdict = policy.judge(RELEASE, {**facts(), "nondeterministic": ["RandomNormalLike"]})
    assert [finding.rule for finding in verdict.findings] == ["deterministic"]


@pytest.mark.parametrize("name", ["dev", "release"])
def test_every_profile_of_ours_loads(name: str) -> None:
    assert policy.profile(name, Path()).rules


def test_profiles_of_others(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("rules: [deterministic]\n")
    assert policy.profile("mine.yaml", tmp_path).rules == ("deterministic",)
    for text, word in (("rules: []", "rules"), ("rules: [partiy]", "parity"), ("rule: [parity]", "rules"), ("", "")):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(UsageError) as caught:
            policy.profile("bad.yaml", tmp_path)
        assert word in f"{caught.value.message} {caught.value.hint}"
    for name in ("relaese", "absent.yaml"):
        with pytest.raises(UsageError):
            policy.profile(name, tmp_path)

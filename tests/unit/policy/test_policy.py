# SPDX-License-Identifier: Apache-2.0
"""Rules judge facts: exactly, and never in favour of what is missing."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packager import plugins
from packager.canonical import JSON
from packager.errors import UsageError
from packager.policy import engine
from packager.policy.engine import Profile
from packager.policy.waivers import Waiver


def facts(**output: JSON) -> dict[str, JSON]:
    measured = {"dtype": "float32", "shape": [2], "not_finite": 0, "frontier": [], **output}
    case = {"name": "batch=2", "outputs": {"y": measured}}
    target = {
        "precision": "fp32",
        "tolerance": {"y": {"atol": 1e-3, "rtol": 1e-2}},
        "unmeasured": None,
        "cases": [case],
        "shortened": {},
    }
    return {"nondeterministic": [], "targets": {"onnxruntime-cpu-fp32": target}}


def point(difference: float, magnitude: float) -> JSON:
    return {"difference": difference, "magnitude": magnitude, "index": [1], "expected": magnitude, "got": 0.0}


RELEASE = Profile("release", ("parity", "deterministic", "coverage"))


def test_within_tolerance_holds() -> None:
    assert engine.judge(RELEASE, facts(frontier=[point(1e-3, 0.0), point(0.0109, 1.0)])).ok


def test_a_miss_names_everything() -> None:
    verdict = engine.judge(RELEASE, facts(frontier=[point(0.5, 10.0), point(0.02, 1.0), point(1e-4, 0.0)]))
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
    assert engine.judge(Profile("p", ("parity",)), given_facts).ok == within


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ({"got": {"dtype": "float16", "shape": [2]}}, "expected float32[2], got float16[2]"),
        ({"unequal": 3, "first_unequal": {"index": [0], "expected": 1, "got": 2}}, "3 elements differ"),
        ({"not_finite": 1, "first_not_finite": {"index": [0], "expected": "nan", "got": 1.0}}, "NaN or infinity"),
    ],
)
def test_other_kinds_of_difference(output: dict[str, JSON], words: str) -> None:
    (finding,) = engine.judge(RELEASE, facts(**output)).findings
    assert words in finding.message


def test_not_measured_is_not_a_pass() -> None:
    empty = facts()
    empty["targets"]["onnxruntime-cpu-fp32"]["cases"] = []
    assert not engine.judge(RELEASE, empty).ok
    assert not engine.judge(RELEASE, {"nondeterministic": [], "targets": {}}).ok


def test_unrunnable_target_is_a_warning_or_an_error() -> None:
    absent = facts()
    absent["targets"]["onnxruntime-cpu-fp32"] |= {"cases": [], "unmeasured": "this host has no NVIDIA GPU"}
    verdict = engine.judge(RELEASE, absent)
    (finding,) = verdict.findings
    assert verdict.ok and finding.level == "warning" and "not measured here: this host has no" in finding.message
    demanding = engine.judge(Profile("p", ("parity", "measured")), absent)
    assert not demanding.ok and {item.level for item in demanding.findings} == {"warning", "error"}
    assert engine.judge(Profile("p", ("measured",)), facts()).ok


@pytest.mark.parametrize("rule", plugins.list_names("policies"))
def test_a_missing_fact_fails_closed(rule: str) -> None:
    verdict = engine.judge(Profile("p", (rule,)), {})
    assert not verdict.ok
    assert "missing" in verdict.findings[0].message


def test_random_operators_are_refused() -> None:
    verdict = engine.judge(RELEASE, {**facts(), "nondeterministic": ["RandomNormalLike"]})
    assert [finding.rule for finding in verdict.findings] == ["deterministic"]


@pytest.mark.parametrize("name", engine.list_profiles())
def test_every_profile_of_ours_loads(name: str) -> None:
    assert engine.load_profile(name, Path()).rules


def test_profiles_of_others(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("rules: [deterministic]\n")
    assert engine.load_profile("mine.yaml", tmp_path).rules == ("deterministic",)
    for text, word in (("rules: []", "rules"), ("rules: [partiy]", "parity"), ("rule: [parity]", "rules"), ("", "")):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(UsageError) as caught:
            engine.load_profile("bad.yaml", tmp_path)
        assert word in f"{caught.value.message} {caught.value.hint}"
    for name in ("relaese", "absent.yaml"):
        with pytest.raises(UsageError):
            engine.load_profile(name, tmp_path)


DAY = datetime.date(2026, 12, 31)
WAIVER = Waiver("parity", "onnxruntime-cpu-*/y", "ada@example.org", "known, ticket 7", DAY)
MISS = facts(frontier=[point(0.5, 10.0)])


def test_incomplete_measurement_fails_the_release_profile() -> None:
    short = facts()
    short["targets"]["onnxruntime-cpu-fp32"]["shortened"] = {"sequence": 4096}
    (finding,) = engine.judge(RELEASE, short).findings
    assert (finding.rule, finding.level, finding.subject) == ("coverage", "error", "onnxruntime-cpu-fp32/sequence")
    assert "only up to sequence=4096" in finding.message
    assert "[1, 4096]" in str(finding.hint)
    assert engine.judge(engine.load_profile("dev", Path()), short).ok


@pytest.mark.parametrize(("day", "ok"), [(DAY, True), (DAY + datetime.timedelta(1), False), (None, False)])
def test_a_waiver_holds_to_its_day_and_is_recorded(day: datetime.date | None, ok: bool) -> None:
    verdict = engine.judge(Profile("p", ("parity",), (WAIVER,)), MISS, day)
    (finding,) = verdict.to_json()["findings"]
    assert verdict.ok == ok
    assert finding["level"] == ("note" if ok else "error")
    assert finding.get("waiver") == (WAIVER.to_json() if ok else None)
    assert ("waived until 2026-12-31 by ada@example.org: known, ticket 7" in finding["message"]) == ok
    assert ("ended on 2026-12-31" in finding["message"]) == (not ok)


def test_a_waiver_covers_its_own_rule_and_subject_only() -> None:
    for other in (Waiver("parity", "*/z", "a", "b", DAY), Waiver("coverage", "*", "a", "b", DAY)):
        verdict = engine.judge(Profile("p", ("parity",), (other,)), MISS, DAY)
        assert not verdict.ok
        assert [finding.message for finding in verdict.findings if finding.level == "note"] == [
            "the waiver of a matches no finding"
        ]


def test_a_missing_fact_cannot_be_waived() -> None:
    everything = Waiver("parity", "*", "a", "b", DAY)
    assert not engine.judge(Profile("p", ("parity",), (everything,)), {}, DAY).ok


def test_waivers_are_written_completely(tmp_path: Path) -> None:
    good = 'rules: [parity]\nwaivers:\n  - {rule: parity, subject: "*/y", owner: ada, reason: known, expires: 2026-12-31}\n'
    (tmp_path / "p.yaml").write_text(good)
    assert engine.load_profile("p.yaml", tmp_path).waivers == (Waiver("parity", "*/y", "ada", "known", DAY),)
    for old, new, word in (
        ("2026-12-31", "never", "every waiver ends"),
        ("owner: ada, ", "", "no `owner`"),
        ("known", "''", "reason"),
        ("rule: parity", "rule: deterministic", "has no rule"),
        ("2026-12-31", "2026-02-30", "expected a day"),
    ):
        (tmp_path / "p.yaml").write_text(good.replace(old, new))
        with pytest.raises(UsageError) as caught:
            engine.load_profile("p.yaml", tmp_path)
        assert word in f"{caught.value.message} {caught.value.hint}"

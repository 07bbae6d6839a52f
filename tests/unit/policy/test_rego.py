# SPDX-License-Identifier: Apache-2.0
"""Policies in Rego: the contract, what fails closed, and the verdict of the real OPA over the same files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from packager.canonical import JSON
from packager.errors import PackagerError, UsageError
from packager.files import make_staging
from packager.policy import docs, engine, rego, report, schema, testing
from packager.policy.engine import Profile, RuleSettings
from tests.support.environments import CACHE

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples" / "policies"
HEAD = "package main\nimport rego.v1\n"
MODEL: JSON = {"licence": "MIT", "description": None, "authors": ["Ada"], "datasets": []}


def found(text: str, **facts: JSON) -> set[tuple[str, str]]:
    chosen = Profile("p", ("a.rego",), settings={"a.rego": RuleSettings(program=text)})
    return {(finding.level, finding.message) for finding in engine.judge(chosen, facts).findings}


def test_example_policies_pass_their_tests() -> None:
    outcomes = [outcome for case in testing.load(EXAMPLES / "tests") for outcome in testing.run(case)]
    # the fourth case has a warning only, which is no refusal: it is not asked again without its facts
    assert [outcome.problem for outcome in outcomes] == [None] * 7
    assert sum("without" in outcome.name for outcome in outcomes) == 3


def test_profile_digest_follows_the_rego_files_it_names(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("rules:\n  - parity\n  - a.rego: {level: warning, effective-on: 2027-01-01}\n")
    digests = set()
    for text in ("deny contains x if { x := input.name }", "deny contains 1 if input.model"):
        (tmp_path / "a.rego").write_text(HEAD + text)
        profile = engine.load_profile("p.yaml", tmp_path)
        digests.add(profile.digest)
        assert profile.settings_of("a.rego").level == "warning"
    assert len(digests) == 2
    assert profile.facts == {"targets", "model"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("allow if count(input) > 0", "as a whole"),
        ('allow if input["model"]', "as a whole"),
        ("allow if input.modle", "no fact"),
        ("allow if {", "is refused: line 3"),
        ("deny contains 1 if { nosuch(3) }", "line 3: `nosuch`"),
        ('deny contains 1 if net.cidr_contains("10.0.0.0/8", input.model.licence)', "`net.cidr_contains`"),
        ("allow if opa.runtime().env.HOME", "`opa.runtime`"),
        ("deny contains y if x == 1", "`x` is unsafe"),
        ("deny[msg] { msg := 1 }", "before Rego v1"),
        ("allow if count(1, 2)", "takes 1 arguments"),
    ],
)
def test_policy_with_unknown_facts_is_an_error(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.rego").write_text(HEAD + text)
    (tmp_path / "p.yaml").write_text("rules: [a.rego]")
    with pytest.raises(UsageError) as caught:
        engine.judge(engine.load_profile("p.yaml", tmp_path), {"model": MODEL})
    assert words in caught.value.message
    assert "a.rego" in caught.value.message


def test_another_package_is_an_error() -> None:
    with pytest.raises(UsageError, match="expected `package main`, got `package other`"):
        found("package other\nallow := true", model=MODEL)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("rules: [absent.rego]")
    with pytest.raises(UsageError, match="cannot read policy"):
        engine.load_profile("p.yaml", tmp_path)


def test_input_inside_texts_is_not_input() -> None:
    assert rego.list_sections(
        '# reads input\nx := "input" # input.foo\ny := `input` \nz if input.model.licence', "a"
    ) == ("model",)


def test_allow_must_be_true_and_deny_empty() -> None:
    no = "does not allow it"
    for text, refused in (
        ("allow := true\ndeny := set()", False),
        ("allow := 1\ndeny := set()", True),
        ('allow := "true"\ndeny := set()', True),
        ("deny := set()", True),
        ("allow if input.model.licence == 3\ndeny := set()", True),
    ):
        assert any(no in message for _, message in found(HEAD + text, model=MODEL)) == refused, text
    assert found(HEAD + 'allow := true\ndeny contains "x" if true', model=MODEL) == {("error", "x")}
    assert found(HEAD + 'allow := true\ndeny := set()\nviolation contains {"msg": "v"} if true', model=MODEL) == {
        ("error", "v")
    }
    assert found(HEAD + 'allow := true\ndeny := set()\nwarn contains "w" if true', model=MODEL) == {("warning", "w")}
    assert ("error", "`a.rego` does not allow it: `allow` is undefined") in found(HEAD, model=MODEL)
    assert found(HEAD + "allow := true\ndeny := 3", model=MODEL) == {("error", "`deny` is no set of messages, got 3")}
    assert found(HEAD + "allow := true", model=MODEL) == {("error", "`deny` is no set of messages, got None")}


@pytest.mark.parametrize("facts", [{}, {"model": {"licence": 3}}])
def test_a_fact_that_is_missing_or_malformed_never_passes(facts: dict[str, JSON]) -> None:
    """The same comparison in Rego alone is silent: nothing is denied, so Conftest would let it pass."""
    text = HEAD + 'allow := true\ndeny contains "no" if input.model.licence != "MIT"'
    assert not found(text, model=MODEL)
    ((level, message),) = found(text, **facts)
    assert (level, "`model`" in message) == ("error", True)


def test_rego_gets_only_the_facts_it_reads() -> None:
    text = (
        HEAD
        + 'allow := true\ndeny contains data.main.seen if true\nseen := object.keys(x) if { x := {"a": input.model} }'
    )
    assert found(text, model=MODEL, card=None)


def test_reports_name_rego_rules(tmp_path: Path) -> None:
    chosen = Profile(
        "p",
        ("a.rego",),
        settings={"a.rego": RuleSettings(program=HEAD + 'allow := true\ndeny contains "x" if input.model')},
    )
    verdict = engine.judge(chosen, {"model": MODEL})
    assert "a.rego" in report.render_table(verdict, "n:1")
    assert json.loads(report.render_sarif(verdict, "n:1"))["runs"][0]["results"][0]["ruleId"] == "a.rego"
    assert verdict.findings[0].documentation == "docs/reference/policies.md#rules-in-rego"
    assert "## Rules in Rego" in (EXAMPLES.parents[1] / "reference" / "policies.md").read_text()
    assert "a.rego" not in docs.render_chapter()


# the real thing


OPA = "opa-golib-python-bindings==0.4.4"
"""Open Policy Agent 1.20.2 itself, as a library: it has no package with the program on PyPI, npm or in Debian."""
ASK = """
import json, sys
sys.path.insert(0, sys.argv[1])
from opa_bindings.engine import OpaEngine
text, asked = open(sys.argv[2]).read(), json.load(open(sys.argv[3]))
with OpaEngine() as engine:
    engine.add_policy("policy.rego", text)
    print(json.dumps([engine.eval_document("main", facts) for facts in asked]))
"""


def opa() -> Path:
    """Return where OPA's evaluator is installed; its metadata asks for a newer Python, its code does not."""
    place = CACHE / OPA
    if not place.exists():
        uv = Path(sys.executable).parent / "uv"
        with make_staging(place) as directory:
            command = [
                uv,
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--python-version",
                "3.14",
                "--target",
                directory / "opa",
                OPA,
            ]
            subprocess.run(command, check=True)
            (directory / "opa").rename(place)
    return place


def conftest_refuses(document: dict[str, Any]) -> bool:
    """Conftest fails a file if `deny` or `violation` of package main say anything (its documentation, "Writing policies")."""
    return bool(document.get("deny")) or bool(document.get("violation"))


@pytest.mark.slow
def test_opa_gives_the_same_verdict_on_the_same_file(tmp_path: Path) -> None:
    cases = testing.load(EXAMPLES / "tests")
    (tmp_path / "facts.json").write_text(json.dumps([dict(case.facts) for case in cases]))
    done = subprocess.run(
        [sys.executable, "-c", ASK, opa(), EXAMPLES / "acme.rego", tmp_path / "facts.json"],
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = json.loads(done.stdout)
    assert len(theirs) == len(cases) == 4
    for case, document in zip(cases, theirs, strict=True):
        chosen = Profile("p", (case.rule,), settings={case.rule: RuleSettings(program=case.program)})
        verdict = engine.judge(chosen, case.facts)
        said = [item if isinstance(item, str) else item["msg"] for key in ("deny", "warn") for item in document[key]]
        assert verdict.ok == document["allow"] == (not conftest_refuses(document)), case.name
        assert sorted(f.message for f in verdict.findings if f.subject != "allow") == sorted(said), case.name


@pytest.mark.slow
def test_the_evaluators_agree_on_what_policies_use(tmp_path: Path) -> None:
    """Constructs beyond the example: comprehensions, patterns, versions, absence, arithmetic, negation."""
    bodies = [
        'deny contains sprintf("%s %s", [c.name, c.version]) if { some c in input.components; semver.compare(c.version, "2.0.0") < 0 }',
        "deny contains c.name if { some c in input.components; not c.licence }",
        "deny contains p if { some i; p := input.components[i].name; regex.match(`^t.*h$`, p) }",
        "deny contains n if { n := count({c.name | some c in input.components}); n > 2 }",
        'deny contains s if { s := concat(",", sort([c.name | some c in input.components])); contains(s, "numpy") }',
        'deny contains "every" if { every c in input.components { startswith(c.name, "n") } }',
    ]
    rows = [("numpy", "1.26.4", "MIT"), ("torch", "2.9.0", None), ("six", "1.0.0", "MIT")]
    facts = [
        {
            "components": [
                dict(zip(("name", "version", "licence", "words"), (*row, None), strict=True)) for row in rows[:size]
            ]
        }
        for size in range(4)
    ]
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    for body in bodies:
        text = f"{HEAD}default allow := false\nallow if count(deny) == 0\n{body}\n"
        (tmp_path / "p.rego").write_text(text)
        done = subprocess.run(
            [sys.executable, "-c", ASK, opa(), tmp_path / "p.rego", tmp_path / "facts.json"],
            capture_output=True,
            text=True,
            check=True,
        )
        for given, document in zip(facts, json.loads(done.stdout), strict=True):
            assert not schema.find_problems(given)
            ours = {message for _, message in found(text, **given) if "does not allow" not in message}
            assert ours == {str(item) for item in document["deny"]}, (body, given)


def test_errors_of_the_evaluator_are_ours() -> None:
    with pytest.raises(PackagerError):
        list(rego.check("package main\nallow := ", "a.rego", {}))

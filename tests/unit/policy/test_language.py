# SPDX-License-Identifier: Apache-2.0
"""Our part of Rego beside 272 answers of OPA 1.22.4: equal, or refused by name; never silent, never another value.

`tests/data/rego` holds OPA's answers and its built-ins. Where an `opa` is on PATH, it is asked as well.
"""

from __future__ import annotations

import json
import random
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from packager.errors import StepError, UsageError
from packager.policy import engine, opa, rego
from packager.policy.engine import Profile, RuleSettings
from packager.policy.language import builtins, child, program, values
from packager.policy.language.values import RegoError, UndefinedError

DATA = Path(__file__).parents[2] / "data" / "rego"
INPUT, *VECTORS = (json.loads(line) for line in (DATA / "vectors.jsonl").read_text().splitlines())
BUILTINS = json.loads((DATA / "builtins.json").read_text())
MODEL = {"licence": "MIT", "description": None, "authors": ["Ada"], "datasets": []}
needs_opa = pytest.mark.skipif(shutil.which("opa") is None, reason="no `opa` on PATH")


def evaluated(text: str, document: Any = None) -> dict[str, Any]:
    return program.evaluate(program.load(text), INPUT["input"] if document is None else document)


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["case"][:60] for vector in VECTORS])
def test_every_answer_of_opa_is_ours_or_refused(vector: dict[str, Any]) -> None:
    try:
        found = evaluated(vector["module"])
    except RegoError as refused:
        assert str(refused)
        return
    assert "opa_refuses" not in vector and "opa_strict_refuses" not in vector, found
    assert found == vector["opa"]
    assert json.dumps(found, sort_keys=True).count("true") == json.dumps(vector["opa"], sort_keys=True).count("true")


def test_most_are_equal() -> None:
    """Else refusing everything would do."""
    equal = 0
    for vector in VECTORS:
        try:
            equal += evaluated(vector["module"]) == vector["opa"]
        except RegoError:
            continue
    assert equal >= 191


def test_builtins_are_those_of_opa_without_side_channels() -> None:
    known = {item["name"] for item in BUILTINS}
    looking = {item["name"] for item in BUILTINS if item["nondeterministic"] or item["deprecated"]}
    ours = set(builtins.count_operands())
    assert ours <= known
    assert not ours & (looking - {"time.now_ns"} | {"time.now_ns", "http.send", "opa.runtime", "rand.intn"})


@pytest.mark.parametrize("name", [item["name"] for item in BUILTINS])
def test_unsupported_rego_is_refused_by_name(name: str) -> None:
    if name in builtins.count_operands() or name.startswith("internal.") or name == "assign":
        return
    with pytest.raises(RegoError, match=f"`{name}`".replace(".", r"\.")):
        program.load(f"package main\nallow if {name}(1)\n")


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ('deny contains "x" if input.model.license != "MIT"', "`license` is undefined"),
        ('deny contains "x" if { some d in input.datasets; d.size > 3 }', "`size` is undefined"),
        ('deny contains "x" if input.rows[7].name == "a"', "`7` is undefined"),
        ('deny contains "x" if count([1 | some r in input.rows; r.licence == "GPL"]) > 0', "`licence` is undefined"),
        ('deny contains "x" if bad\nbad if input.model.license == "GPL"', "`license` is undefined"),
        ('deny contains "x" if old(input.model)\nold(m) if m.age > 3', "`age` is undefined"),
        (
            'deny contains "x" if not all_good\nall_good if every r in input.rows { r.name != "" }\nallow if not input.model.bad',
            "`bad`",
        ),
        ('allow if not bad\nbad if input.model.license == "GPL"', "`license` is undefined"),
        ('violation contains "x" if max(input.datasets[0].parts) > 3', "no answer"),
        ('deny contains "x" if input.limit / input.zero > 3', "divide by zero"),
        ('deny contains "x" if to_number(input.model.licence) > 3', "to_number"),
        ('deny contains "x" if time.parse_rfc3339_ns(input.model.licence) < 3', "is no time"),
        ('deny contains "x" if input.limit == "3"', "never are equal"),
        ('deny contains "x" if semver.compare(input.model.licence, "1.0.0") == 1', "semantic version"),
        ('warn contains "x" if { some c in input.limit; c == 1 }', "expected a collection"),
        ('deny contains "x" if { limits := {"MIT": 3}; limits[input.rows[0].name] > 2 }', "is undefined"),
        ("x := 1\nx := 2", "two values"),
        ("f(a) := 1\nf(a) := 2\nx := f(0)", "two values"),
        ("x := y\ny := x", "recursive"),
        ("p[k] := v if { some r in input.rows; k := 1; v := r.name }", "two values"),
    ],
)
def test_undefined_member_in_a_deciding_rule_is_an_error(rules: str, words: str) -> None:
    document = {
        "model": MODEL,
        "rows": [{"name": "a"}, {"name": "b"}],
        "datasets": [{"parts": []}],
        "limit": 3,
        "zero": 0,
    }
    with pytest.raises(RegoError, match=words):
        evaluated(f"package main\n{rules}\n", document)


@pytest.mark.parametrize(
    "rule",
    [
        'deny contains "x" if not input.model.license',
        'deny contains "x" if object.get(input.model, "license", "") == "G"',
        'deny contains "x" if input.model.licence in {"GPL"}',
        'deny contains "x" if bad\nbad if 1 == 2',
        'banned := {"GPL"}\ndeny contains "x" if banned[input.model.licence]',
        'deny contains "x" if input.model.description == "x"',
        'banned := {"GPL": true}\ndeny contains "x" if banned[input.model.licence]',
        'deny contains "x" if { some r in input.rows; r.name == "z" }',
        "allow if input.model.license",
    ],
)
def test_tests_for_absence_are_no_error(rule: str) -> None:
    found = evaluated(f"package main\n{rule}\n", {"model": MODEL, "rows": [{"name": "a"}]})
    assert found.get("deny", []) in ([], ["x"]) and ("not" in rule) == (found.get("deny") == ["x"])


@pytest.mark.parametrize(
    "text",
    [
        "package main\nx := " + "[" * 5000,
        "package main\nx := " + "(" * 300 + "1" + ")" * 300,
        "package main\nx := 1e9999",
        "package main\nx := `",
        'package main\nx := "\\ud800"',
        "package main\nx if { y = 1 = 2 }",
        "package main\n\0",
        "",
        "package main\nallow if input.a with data.b as 1",
        "package main\ninput := 1",
        "package main\nimport data.other.x\ny := x",
        "package main\ny := data.other.x",
        "package main\nf(x) := y if { x := 1; y := x }",
        "package main\nallow if { some x; 1 == 1 }",
        "package main\nallow if { not input.a[i] == 1 }",
        "package main\nx := y if { z := y; y := 1 }",
        "package main\nallow if 1 == true",
    ],
    ids=range(17),
)
def test_no_text_is_anything_but_refused(text: str) -> None:
    with pytest.raises(RegoError):
        program.load(text)


@pytest.mark.parametrize("seed", range(300))
def test_mutations_end_in_a_sentence(seed: int) -> None:
    dice = random.Random(seed)
    text = bytearray(dice.choice(VECTORS)["module"].encode())
    for _ in range(dice.randint(1, 5)):
        at = dice.randrange(13, len(text))
        text[at : at + dice.randint(0, 3)] = dice.choice(
            [b"", b"[", b"}", b"|", b" some x in ", b" := ", b".", b"1", b'"']
        )
    if b"range" in text:
        return
    try:
        evaluated(text.decode(errors="replace"))
    except RegoError as refused:
        assert str(refused)


def test_numbers_equal_those_of_opa() -> None:
    found = evaluated(
        "package main\nx := [0.1 + 0.2, 1 / 3, 10000000000000000000000000 / 7, 2 * 0.5, 7 / 2, 1e21 + 0.5]"
    )
    assert found["x"] == [0.3, 0.3333333333333333, 1428571428571428571400000, 1, 3.5, 1e21]
    assert values.round_number(values.parse_number("0.1")) == values.parse_number("0.1")


# the process


def test_evaluation_stops_at_its_time_limit() -> None:
    text = 'package main\nx if regex.match("^(a|a)*$", concat("", [c | some i in numbers.range(1, 40); c := ["a", "b"][i - i]]) )\n'
    slow = 'package main\nx if regex.match("^(a|a)*$", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab")\n'
    assert child.evaluate(text, {})["x"] is True
    with pytest.raises(RegoError, match="takes more than 1 s"):
        child.evaluate(slow, {}, seconds=1)


def test_evaluation_stops_at_its_memory_limit() -> None:
    text = "package main\nx := count([[a, b] | some a in numbers.range(1, 3000); some b in numbers.range(1, 3000)])\n"
    with pytest.raises(RegoError, match="takes more than"):
        child.evaluate(text, {}, memory=100 << 20)


def test_time_is_readable_only_with_the_clock_setting(tmp_path: Path) -> None:
    (tmp_path / "a.rego").write_text(
        "package main\nallow if count(deny) == 0\ndeny contains d if { time.now_ns() > 0; input.model.licence; d := time.date(time.now_ns()) }\n"
    )
    (tmp_path / "no.yaml").write_text("rules: [a.rego]")
    with pytest.raises(UsageError, match=r"time\.now_ns"):
        engine.load_profile("no.yaml", tmp_path)
    (tmp_path / "yes.yaml").write_text("rules:\n  - a.rego: {clock: true}\n")
    chosen = engine.load_profile("yes.yaml", tmp_path)
    day = engine.day_of({"today": "2026-11-28"})
    said = engine.judge(chosen, {"model": MODEL}, day).findings
    assert "[2026, 11, 28]" in {finding.message for finding in said}
    with pytest.raises(UsageError, match="state no day"):
        engine.judge(chosen, {"model": MODEL})


# Open Policy Agent


def judged(text: str, **how: Any) -> set[str]:
    chosen = Profile("p", ("a.rego",), settings={"a.rego": RuleSettings(program=text, opa=True)})
    return {finding.message for finding in engine.judge(chosen, {"model": MODEL}, **how).findings}


def test_without_opa_nothing_is_judged_by_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StepError, match="`opa` is not installed"):
        judged("package main\nallow := true\ndeny := set()\n")


def test_disagreement_with_opa_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What stands in for `opa` here says that all is well."""
    answer = {"result": [{"expressions": [{"value": {"allow": True, "deny": []}}]}]}
    program_ = tmp_path / "opa"
    program_.write_text(
        f"#!/bin/sh\nif [ $1 = capabilities ]; then echo '{{\"builtins\": []}}'; else echo '{json.dumps(answer)}'; fi\n"
    )
    program_.chmod(program_.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert judged("package main\nallow := true\ndeny := set()\n") == set()
    with pytest.raises(UsageError, match="disagree about 'deny'"):
        judged('package main\nallow := true\ndeny contains "x" if input.model\n')
    with pytest.raises(UsageError, match="`license` is undefined"):
        judged('package main\nallow := true\ndeny contains "x" if input.model.license == "GPL"\n')


@needs_opa
def test_opa_judges_what_is_not_evaluated_here() -> None:
    text = 'package main\nallow if count(deny) == 0\ndeny contains "x" if { net.cidr_contains("10.0.0.0/8", "10.1.1.1"); input.model }\n'
    assert judged(text) == {"x", "`a.rego` does not allow it: `allow` is undefined"}
    for looking in (
        "opa.runtime().env",
        'http.send({"method": "get", "url": "http://127.0.0.1:9/"})',
        "time.now_ns()",
        'rand.intn("a", 9)',
        'net.lookup_ip_addr("localhost")',
    ):
        with pytest.raises(UsageError, match="is refused by `opa`"):
            judged(f"package main\nallow if {{ {looking}; input.model }}\ndeny := set()\n")
    with pytest.raises(UsageError, match="divide by zero"):
        judged('package main\nallow := true\ndeny contains "x" if { count(input.model.datasets) / 0 > 1 }\n')


@needs_opa
@pytest.mark.parametrize("vector", VECTORS[::9], ids=[vector["case"][:60] for vector in VECTORS[::9]])
def test_installed_opa_agrees_with_the_vectors(vector: dict[str, Any]) -> None:
    try:
        theirs: Any = opa.evaluate(vector["module"], "m.rego", INPUT["input"], None)
    except UsageError:
        theirs = None
    if theirs is not None:
        assert theirs == vector["opa"]
    try:
        assert evaluated(vector["module"]) == theirs
    except RegoError:
        return


@needs_opa
def test_opa_reads_the_same_time() -> None:
    text = "package main\nallow := true\ndeny contains x if { input.model; x := time.now_ns() }\n"
    found = list(rego.check(text, "a.rego", {"model": MODEL}, by_opa=True, now=1_764_288_000_000_000_000))
    assert [finding.message for finding in found] == ["1764288000000000000"]


OPERANDS: list[Any] = [
    0,
    1,
    -7,
    2,
    3,
    255,
    0.5,
    -2.5,
    0.1,
    0.2,
    1e-7,
    9007199254740993,
    10**25,
    2**64 + 1,
    "",
    "a",
    "abc",
    "Ä",
    "straße",
    "a.b.c",
    "1.2.3",
    "1.2.3-rc.1",
    "v1.0.0",
    "2020-01-01T00:00:00Z",
    "2020-02-30T00:00:00Z",
    "10",
    "1e3",
    "0x10",
    "  x ",
    "a/b",
    "/",
    "^a+$",
    "[a-c]",
    "(?i)mit",
    r"\d+",
    "a$",
    "a\n",
    "x*",
    "(a|ab)(c|bcd)",
    "abcd",
    "*.onnx",
    "model.onnx",
    "%s-%d",
    "YWI=",
    "6162",
    "1h30m",
    "10KiB",
    True,
    False,
    None,
    [],
    [1],
    [3, 1, 2],
    ["a", "b"],
    [["a"]],
    [None, True, "x", 1.5],
    {},
    {"a": 1},
    {"a": {"b": 1}},
    {"a": ["b"], "b": []},
    ["a/b"],
    ["."],
]


@needs_opa
@pytest.mark.parametrize("seed", range(4))
def test_built_ins_say_what_opa_says_of_any_operands(seed: int, tmp_path: Path) -> None:
    """Where ours has a value, OPA has the same; where OPA has none, ours has none or is refused."""
    dice, known = random.Random(seed), builtins.count_operands()
    signs = {
        "plus": "+",
        "minus": "-",
        "mul": "*",
        "div": "/",
        "rem": "%",
        "equal": "==",
        "neq": "!=",
        "lt": "<",
        "lte": "<=",
        "gt": ">",
        "gte": ">=",
        "or": "|",
        "and": "&",
        "internal.member_2": "in",
    }
    names = sorted(set(known) - {"internal.member_3", "numbers.range", "numbers.range_step", "bits.lsh"})
    chosen = []
    for name in (dice.choice(names) for _ in range(300)):
        args = [f"input.v[{dice.randrange(len(OPERANDS))}]" for _ in range(known[name])]
        chosen.append(f"{args[0]} {signs[name]} {args[1]}" if name in signs else f"{name}({', '.join(args)})")
    (tmp_path / "i.json").write_text(json.dumps({"v": OPERANDS}))
    (tmp_path / "m.rego").write_text(
        "package main\n" + "".join(f"r{i} := v if {{ v := {text} }}\n" for i, text in enumerate(chosen))
    )
    reply = opa._run(
        str(shutil.which("opa")),
        "eval",
        "-f",
        "json",
        "-d",
        str(tmp_path / "m.rego"),
        "-i",
        str(tmp_path / "i.json"),
        "data.main",
    )
    theirs = reply["result"][0]["expressions"][0]["value"]
    compared = 0
    for index, text in enumerate(chosen):
        try:
            ours = evaluated(f"package main\nr := v if {{ v := {text} }}\n", {"v": OPERANDS})
        except RegoError:
            continue
        compared += 1
        assert ours.get("r", "none") == theirs.get(f"r{index}", "none"), text
    assert compared > 60


def test_undefined_error_has_its_own_type() -> None:
    with pytest.raises(UndefinedError):
        evaluated('package main\ndeny contains "x" if input.model.license == "GPL"\n', {"model": MODEL})

# SPDX-License-Identifier: Apache-2.0
"""Edits of a recipe: they land where they belong, in any style, and leave comments and order alone."""

from __future__ import annotations

import random
from typing import Any

import pytest
import yaml

from packager import edits
from packager.edits import APPEND, Edit, Replace

BLOCK = """# head
name: net  # the name
version: 1.0.0

dynamic:  # what is promised
  batch: [1, 64]   # rows
  # between
  width: [1, 512]
runs-on:
  onnxruntime: ">=1.17"  # oldest
# tail
"""
FLOW = 'name: net\nversion: 1.0.0\ndynamic: {batch: [1, 64], width: [1, 512]}  # both\nruns-on: {onnxruntime: {versions: ">=1.17", precision: [fp32]}}\n'
EMPTY = "name: net\nversion: 1.0.0\ndynamic:\ninputs: {}\n"
CASES = [
    (Edit(("dynamic", "batch"), [1, 6])),
    (Edit(("dynamic", "height"), [2, 7])),
    (Edit(("dynamic", "width"))),
    (Edit(("dynamic", "width"), rename="columns")),
    (Edit(("runs-on", "onnxruntime", "versions"), ">=1.20")),
    (Edit(("tolerance", "y"), {"atol": 0.001, "rtol": 1e-4})),
    (Edit(("custom-domains", APPEND), "com.microsoft")),
    (Edit(("inputs", "x", "range"), [0, 1])),
    (Edit(("export", "opset"))),
    (Edit(("version",), "2.0.0")),
    (Edit(("dynamic", "DynamicDimension.0"), [1, 6])),
    (Edit(("dynamic", "?"), [1, 6])),
]


def wanted(value: Any, edit: Edit) -> Any:
    """What the edit means, on the parsed value."""
    here = value
    for place, key in enumerate(edit.path[:-1]):
        below = edit.path[place + 1]
        if not isinstance(here.get(key), dict | list):
            if here.get(key) is not None and edit.value is not None:
                here[key] = edit.value
                return value
            if edit.value is None:
                return value
            here[key] = [] if below == APPEND else {}
        here = here[key]
    last = edit.path[-1]
    if last == APPEND:
        here.append(edit.value)
    elif edit.rename is not None:
        if last in here:
            here[edit.rename] = here.pop(last)
    elif edit.value is None:
        here.pop(last, None)
    else:
        here[last] = edit.value
    return value


@pytest.mark.parametrize("text", [BLOCK, FLOW, EMPTY], ids=["block", "flow", "empty"])
@pytest.mark.parametrize("edit", CASES, ids=lambda edit: ".".join(edit.path))
def test_an_edit_changes_one_thing(text: str, edit: Edit) -> None:
    changed = edits.apply(text, [edit])
    expected = wanted(yaml.safe_load(text), edit)
    got = yaml.safe_load(changed)
    assert got == expected or {k: v or None for k, v in got.items()} == {k: v or None for k, v in expected.items()}
    lost = [row.partition("#")[2] for row in text.splitlines() if "#" in row and row.partition("#")[2] not in changed]
    assert len(lost) <= (edit.value is None and edit.rename is None), "only the comment of a line that goes"


def test_many_edits_one_after_the_other() -> None:
    chosen = random.Random(5)
    for _ in range(200):
        some = chosen.sample(CASES, 4)
        text = chosen.choice([BLOCK, FLOW, EMPTY])
        value = yaml.safe_load(text)
        for edit in some:
            value = wanted(value, edit)
        got = yaml.safe_load(edits.apply(text, some))
        assert {k: v or None for k, v in got.items()} == {k: v or None for k, v in value.items()}, (text, some)


def test_what_is_shown_can_be_pasted() -> None:
    shown = edits.changed_blocks(BLOCK, [Edit(("dynamic", "batch"), [1, 6]), Edit(("tolerance", "y"), {"atol": 0.1})])
    assert [line for line, _ in shown] == [5, None]
    assert shown[0][1].splitlines()[1] == "  batch: [1, 6]   # rows"
    assert shown[1][1] == "tolerance:\n  y: {atol: 0.1}"


def test_characters_of_one_line() -> None:
    assert edits.apply(BLOCK, [Replace(3, "1.0.0", "1.0.1")]).splitlines()[2] == "version: 1.0.1"
    with pytest.raises(ValueError, match="line 3 does not hold"):
        edits.apply(BLOCK, [Replace(3, "9.9.9", "1.0.1")])


@pytest.mark.parametrize(
    "value",
    [
        [{"path": ["allow-pickle"], "value": True}],
        [{"path": ["sandbox"], "value": "none"}],
        [{"path": ["policy"], "value": "dev"}],
        [{"path": ["source"], "value": "/etc"}],
        [{"path": ["tolerance", "y"], "value": {"atol": 9}}],
        [{"path": ["limits", "memory"], "value": "9TiB"}],
        [{"path": ["dynamic", "a"], "value": [1, 2], "more": 1}],
        [{"path": ["dynamic", *"abcdef"], "value": 1}],
        [{"path": ["dynamic", "a"], "value": "x" * 3000}],
        [{"path": [3], "value": 1}],
        "x",
        None,
        [None],
        {"path": ["dynamic"]},
    ],
)
def test_a_worker_proposes_nothing_that_consents(value: Any) -> None:
    assert edits.from_worker(value) == ()
    assert edits.from_worker([{"path": ["dynamic", "a"], "value": [1, 2]}]) == (Edit(("dynamic", "a"), [1, 2]),)


def test_worker_cannot_consent_to_operator_domains() -> None:
    """It may leave out the mark; what `--fix` writes by itself is what ONNX Runtime brings."""
    path = ["custom-domains", "+"]
    (own,) = edits.from_worker([{"path": path, "value": "evil.example"}])
    (known,) = edits.from_worker([{"path": path, "value": "com.microsoft"}])
    assert own.consents and not known.consents

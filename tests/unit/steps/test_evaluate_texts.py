# SPDX-License-Identifier: Apache-2.0
"""Errors in words and characters: jiwer's figures over rows and slices, of both sides, and rows that are not taken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jiwer
import onnx
import pytest

from packager import json_schema, plugins
from packager.errors import StepError, UsageError
from packager.recipe import recipe
from packager.steps._evaluate import judge_sides
from packager.steps._evaluate_texts import compare_texts, simplify
from tests.support import language_models

TASK = "text2text-generation"
EXPORT = {"kind": "transformers", "payload": ".", "opset": 18, "ir": 10, "task": TASK}
SPEC = {"label": "said", "metric": "wer", "slices": ["room"]}
TEXTS = ("The house is old.", "Nobody reads: maps!", "two  rivers", "A lamp, lit at night", "seven ships", "one more")


def run(step: str, inputs: dict[str, Path], out: Path, params: dict[str, Any]) -> Any:
    module = plugins.load("steps", step)
    out.mkdir()
    facts = module.run(inputs, out, params)
    assert next(json_schema.check(facts, module.ANSWER, "facts"), None) is None
    return facts


def data_of(folder: Path, rows: Sequence[Any]) -> Path:
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A seeded model, its graphs, and what it writes about texts."""
    root = tmp_path_factory.mktemp("texts")
    source = language_models.write(root / "source", "t5", generation={"max_length": 12, "num_beams": 2})
    facts = run("export_generation", {"source": source}, root / "graph", EXPORT)
    rows = data_of(root / "plain", [{"text": text} for text in TEXTS])
    assert run("answer_rows", {"source": source, "evaluation": rows}, root / "answers", EXPORT) == {"rows": len(TEXTS)}
    written = json.loads((root / "answers" / "answers.json").read_text())["answers"]
    about = facts["generation"]
    return {"source": source, "graph": root / "graph", "about": about, "answers": root / "answers", "written": written}


def evaluate(made: dict[str, Any], folder: Path, rows: Sequence[Any], graph: Path | None = None, **spec: Any) -> Any:
    data = data_of(folder / "rows", rows)
    about = {**made["about"], "tokenizer": f"sha256:{'0' * 64}", "template": None}
    inputs = {"answers": made["answers"], "graph": made["graph"], "artefact": graph or made["graph"]}
    params = {"runtime": "onnxruntime", "path": "model/model.onnx", "generation": about}
    params["evaluation"] = {**SPEC, **spec}
    return run("evaluate_rows", {**inputs, "evaluation": data}, folder / "out", params)["evaluation"]


def labelled(made: dict[str, Any]) -> list[dict[str, str]]:
    """Return rows whose labels are what the source writes, but that half of them have two words more."""
    return [
        {"text": text, "said": f"{heard} {'house lamp' if place % 2 else 'lamp'}", "room": "ab"[place % 2]}
        for place, (text, heard) in enumerate(zip(TEXTS, made["written"], strict=True))
    ]


@pytest.mark.slow  # a model of transformers is made and opened
@pytest.mark.parametrize("metric", ["wer", "cer"])
def test_both_sides_reach_what_jiwer_counts(made: dict[str, Any], metric: str, tmp_path: Path) -> None:
    rows = labelled(made)
    found = evaluate(made, tmp_path, rows, metric=metric)

    def expected(chosen: Sequence[int]) -> float:
        right, written = ([simplify(text) for text in texts] for texts in ([r["said"] for r in rows], made["written"]))
        return float(getattr(jiwer, metric)([right[n] for n in chosen], [written[n] for n in chosen]))

    assert (found["rows"], found["source"], found["target"]) == (6, *[pytest.approx(expected(range(6)))] * 2)
    assert 0 < found["source"] < 1
    slices = {item["value"]: item for item in found["slices"]}
    for value, places in (("a", (0, 2, 4)), ("b", (1, 3, 5))):
        assert slices[value]["rows"] == 3
        assert slices[value]["source"] == slices[value]["target"] == pytest.approx(expected(places))
    assert slices["a"]["target"] < slices["b"]["target"]


@pytest.mark.slow  # as above
def test_a_target_that_writes_other_words_has_another_figure(made: dict[str, Any], tmp_path: Path) -> None:
    rows = [{**row, "said": row["said"].rpartition(" ")[0]} for row in labelled(made)]
    other = tmp_path / "other"
    shutil.copytree(made["graph"], other)
    decoder = onnx.load(other / "model" / "model.onnx")
    (head,) = (item for item in decoder.graph.initializer if language_models.VOCABULARY in item.dims)
    head.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(head), head.name))
    onnx.save(decoder, other / "model" / "model.onnx")
    found = evaluate(made, tmp_path, rows, graph=other)
    assert found["target"] > found["source"] + 0.2


def test_case_punctuation_and_blanks_do_not_count() -> None:
    assert (
        simplify("  It's  A re\u0301sume\u0301 - \u201cwell-known\u201d;\nyes?")
        == "its a r\u00e9sum\u00e9 wellknown yes"
    )
    sides = [compare_texts("wer", ["One, two."], ["one TWO"]), compare_texts("wer", ["one two"], ["one three four"])]
    assert [side.value([0]) for side in sides] == [0.0, 1.0]
    assert compare_texts("wer", ["a", "b c d"], ["", "b c d"]).value([0, 1]) == 0.25, "a longer row weighs more"


def test_figures_are_those_of_the_rows_of_a_slice(tmp_path: Path) -> None:
    rows = [{"said": text, "room": room} for text, room in (("one two", "x"), ("one", "y"))]
    side = compare_texts("wer", ["one two", "one"], ["one two", "two"])
    found = judge_sides(SPEC, data_of(tmp_path / "d", rows), rows, [side, side])
    assert [(item["value"], item["target"]) for item in found["slices"]] == [("x", 0.0), ("y", 1.0)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"said": "..."}, r"row 1: the label has no words"),
        ({"said": ""}, r"row 1 has no `said`, the label"),
        ({"text": ""}, r"row 1 has no `text`, which the model reads"),
        ({"text": "word " * 400}, r"row 1: the text has \d+ tokens, expected at most"),
    ],
)
@pytest.mark.slow  # as above
def test_a_row_that_is_not_taken_is_named(
    made: dict[str, Any], change: dict[str, str], words: str, tmp_path: Path
) -> None:
    rows = labelled(made)
    rows[1] = {**rows[1], **change}
    with pytest.raises(StepError, match=words):
        evaluate(made, tmp_path, rows)


@pytest.mark.slow  # as above
def test_sentences_make_no_slices_and_answers_of_other_rows_are_refused(made: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(StepError, match="`said` has sentences, which make no slices"):
        evaluate(made, tmp_path / "1", labelled(made), slices=["said"])
    with pytest.raises(StepError, match="not one text per row"):
        evaluate(made, tmp_path / "2", labelled(made)[:5])


@pytest.mark.slow  # as above
def test_the_source_names_a_row_that_it_does_not_take(made: dict[str, Any], tmp_path: Path) -> None:
    data = data_of(tmp_path / "rows", [{"text": TEXTS[0]}, {"text": "word " * 400}])
    with pytest.raises(StepError, match=r"evaluation: row 1: the text has \d+ tokens, expected 1 to"):
        run("answer_rows", {"source": made["source"], "evaluation": data}, tmp_path / "out", EXPORT)


RECIPE = "name: a\nversion: 1.0.0\nsource: m\n{}evaluation: {{data: d.jsonl, label: s, metric: {}, bound: 0.1{}}}\n"


@pytest.mark.parametrize(
    ("task", "metric", "more", "words"),
    [
        ("", "wer", "", "`wer` is of the texts that a model writes, and there is no `task`"),
        ("text-generation", "wer", "", "`evaluation` has no meaning beside `task: text-generation`"),
        (TASK, "f1", "", "`f1` is not measured for `text2text-generation`"),
        (TASK, "cer", ", output: logits", "`evaluation.output` has no meaning beside `task`"),
    ],
)
def test_a_metric_that_says_nothing_of_a_task_is_refused(task: str, metric: str, more: str, words: str) -> None:
    text = RECIPE.format(f"task: {task}\n" if task else "", metric, more)
    with pytest.raises(UsageError, match=words):
        recipe.parse(text.encode(), "bundle.yaml")


def test_a_recipe_has_a_metric_of_words() -> None:
    found = recipe.parse(RECIPE.format(f"task: {TASK}\n", "wer", "").encode(), "bundle.yaml")
    assert found.evaluation is not None and found.evaluation.metric == "wer"

# SPDX-License-Identifier: Apache-2.0
"""Ensembles: what does not fit is refused before anything is written, and what is written stays true."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from packager.deploy.triton import pipeline
from packager.errors import PackagerError, UsageError
from packager.knobs.knobs import Override
from packager.store.store import Store
from tests.support.breadth import examples
from tests.support.model_repositories import DIGITS, PORT, PREPARE, SUPPORT, ensemble, make, record, render, snapshot


def config(root: Path, path: str = "support/config.pbtxt"):
    return text_format.Parse((root / path).read_text(), model_config_pb2.ModelConfig())


@pytest.fixture
def models(tmp_path: Path, store: Store) -> Path:
    """A repository with two models that fit: up to 16 and up to 12 rows."""
    render(make(store, "prepare", *PREPARE), tmp_path / "models")
    render(make(store, "digits", *DIGITS, n=(1, 12)), tmp_path / "models")
    return tmp_path / "models"


# the file


STEP = "  - {model: digits, inputs: {image: features}, outputs: {output: scores}}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: support\n", "has no `steps`"),
        ("name: support\nsteps: []\n", "at least 1"),
        ("name: support\nstep: []\nsteps: []\n", r"support.yaml:2: `step` is not a key"),
        ("name: Support\nsteps:\n" + STEP, "expected a name of lower-case words"),
        ("name: digits\nsteps:\n" + STEP, "also the name of a step"),
        ("name: a\nsteps:\n  - {model: digits, inputs: {}, outputs: {output: scores}}\n", "at least one entry"),
        ("name: a\nsteps:\n  - {model: digits, outputs: {output: scores}}\n", "has no `inputs`"),
        ("name: a\nsteps:\n" + STEP + STEP, r"`scores` is made twice, first at support.yaml:3"),
        ("name: a\nsteps:\n" + STEP + "outputs: [score]\n", "no step makes the output `score`"),
        (
            "name: a\nsteps:\n  - {model: b, inputs: {x: y}, outputs: {z: y}}\n",
            r"wait for each other: `b` \(support.yaml:3\)",
        ),
        (
            "name: a\nsteps:\n  - {model: b, inputs: {x: q}, outputs: {z: y}}\n  - {model: c, inputs: {x: y}, outputs: {z: q}}\n",
            "wait for each other: `b`.*`c`",
        ),
        (
            "name: a\nsteps:\n  - {model: b, inputs: {x: q}, outputs: {z: y, w: unused}}\noutputs: [y]\n",
            "no step takes `unused`",
        ),
        ("name: a\nsteps: &s\n" + STEP, "anchor"),
    ],
)
def test_a_pipeline_that_is_none_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pipeline.parse(text.encode(), "support.yaml")


def test_a_pipeline_reads_back_from_its_record() -> None:
    found = pipeline.parse(SUPPORT.encode(), "support.yaml")
    assert (found.inputs, found.outputs) == (("image",), ("scores",))
    assert [step.model for step in found.steps] == ["prepare", "digits"], "in an order that can run"
    assert pipeline.Pipeline.from_json(found.to_json()).to_json() == found.to_json()


# how steps fit


def test_an_ensemble_says_all_and_is_the_same_again(models: Path) -> None:
    made = ensemble(models)
    assert (made.number, made.before, made.created) == (1, None, True)
    found, about = config(models), record(models)
    assert (found.platform, found.max_batch_size) == ("ensemble", 12), "that of the smallest step"
    assert [(step.model_name, step.model_version) for step in found.ensemble_scheduling.step] == [
        ("prepare", -1),
        ("digits", -1),
    ]
    assert dict(found.ensemble_scheduling.step[1].input_map) == {"image": "features"}
    assert [(list(port.dims), port.name) for port in (*found.input, *found.output)] == [
        ([8], "image"),
        ([10], "scores"),
    ]
    assert about["interface"]["dimensions"] == {"batch": {"min": 1, "max": 12}}, "what both take"
    for place, model in enumerate(("prepare", "digits"), 1):
        step, own = about["steps"][place - 1], record(models, model)
        assert (step["bundle"], step["knobs"], step["number"]) == (own["bundle"], own["knobs"], 1)
        assert found.metric_tags[f"bundle_{place}"] == own["bundle"]
    before = snapshot(models)
    assert (ensemble(models).created, ensemble(models).before) == (False, 1)
    assert snapshot(models) == before


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        ("model: digits", "model: digit", "no model `digit`", "did you mean `digits`"),
        ("{image: features}", "{images: features}", "`digits` has no input `images`", "did you mean `image`"),
        ("{output: scores}", "{outputs: scores}", "`digits` has no output `outputs`", "did you mean `output`"),
    ],
)
def test_unknown_names_get_a_close_match(models: Path, old: str, new: str, message: str, hint: str) -> None:
    before = snapshot(models)
    with pytest.raises(UsageError, match=message) as caught:
        ensemble(models, SUPPORT.replace(old, new))
    assert hint in str(caught.value.hint)
    assert snapshot(models) == before, "nothing is written"


@pytest.mark.parametrize(
    ("inputs", "spans", "message"),
    [
        ({"image": ("float32", "n", 8), "mask": ("bool", "n", 8)}, {}, "input `mask` of `digits` gets no tensor"),
        ({"image": ("float16", "n", 8)}, {}, r"float32 \[batch, 8\].*float16 \[n, 8\]"),
        ({"image": ("float32", "n", 8, 1)}, {}, r"`features` does not fit: `scaled` of `prepare` \(support.yaml:4\)"),
        ({"image": ("float32", "n", 9)}, {}, "`features` does not fit"),
        ({"image": ("float32", "n", 8)}, {"n": (17, 20)}, "`features` does not fit"),
        ({"image": ("float32", "n", "n")}, {"n": (9, 16)}, "`features` does not fit"),
    ],
)
def test_what_does_not_fit_is_refused(models: Path, store: Store, inputs: PORT, spans: dict, message: str) -> None:
    render(make(store, "digits", inputs, {"output": ("float32", "n", 10)}, "1.1.0", **spans), models)
    with pytest.raises(UsageError, match=message):
        ensemble(models)
    assert not (models / "support").exists()


def test_a_length_that_no_caller_chooses_has_to_fit(tmp_path: Path, store: Store) -> None:
    """A detector finds up to 100 boxes; what follows must take them all."""
    text = """name: boxes
steps:
  - {model: find, inputs: {image: image}, outputs: {hits: hits}}
  - {model: rate, inputs: {boxes: hits}, outputs: {rates: rates}}
"""
    found = ({"image": ("float32", "batch", 4)}, {"hits": ("float32", "batch", "k")})
    rated = ({"boxes": ("float32", "batch", "m")}, {"rates": ("float32", "batch", "m")})
    render(make(store, "find", *found, k=(1, 100)), tmp_path)
    render(make(store, "rate", *rated, m=(1, 64)), tmp_path)
    with pytest.raises(UsageError, match="`k` is not the caller's choice"):
        ensemble(tmp_path, text)
    render(make(store, "rate", *rated, "1.1.0", m=(1, 128)), tmp_path)
    ensemble(tmp_path, text)
    assert record(tmp_path, "boxes")["interface"]["dimensions"]["m"] == {"min": 1, "max": 100}


def test_a_step_that_counts_no_rows_makes_the_whole_one_that_counts_none(models: Path, store: Store) -> None:
    label = ({"scores": ("float32", "rows", 10)}, {"label": ("int64", "rows")})
    render(make(store, "finish", *label), models)
    assert config(models, "finish/config.pbtxt").max_batch_size == 0
    ensemble(models, SUPPORT + "  - {model: finish, inputs: {scores: scores}, outputs: {label: label}}\n")
    found = config(models)
    assert found.max_batch_size == 0
    assert [list(port.dims) for port in (*found.input, *found.output)] == [[-1, 8], [-1]]


def test_two_branches_keep_dimensions_of_one_name_apart(tmp_path: Path, store: Store) -> None:
    pair = ({"x": ("float32", "batch", "seq")}, {"y": ("float32", "batch", "seq")})
    render(make(store, "left", *pair, seq=(1, 4)), tmp_path)
    render(make(store, "right", *pair, seq=(5, 8), batch=(2, 3)), tmp_path)
    ensemble(
        tmp_path,
        """name: both
steps:
  - {model: left, inputs: {x: a}, outputs: {y: c}}
  - {model: right, inputs: {x: b}, outputs: {y: d}}
""",
    )
    found = record(tmp_path, "both")["interface"]
    assert [port["shape"] for port in found["inputs"]] == [["batch", "seq"], ["batch", "seq-2"]]
    assert found["dimensions"] == {
        "batch": {"min": 2, "max": 3},
        "seq": {"min": 1, "max": 4},
        "seq-2": {"min": 5, "max": 8},
    }


SPAN = st.tuples(st.integers(1, 20), st.integers(0, 20)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(st.lists(SPAN, min_size=2, max_size=5))
@settings(max_examples=examples(25), deadline=None)
def test_the_range_of_a_chain_is_what_all_steps_take(tmp_path_factory: pytest.TempPathFactory, spans: list) -> None:
    root = tmp_path_factory.mktemp("chain")
    store = Store(root / "store")
    steps = []
    for place, span in enumerate(spans):
        ports = ({"x": ("float32", "batch", f"s{place}")}, {"y": ("float32", "batch", f"s{place}")})
        render(make(store, f"m{place}", *ports, **{f"s{place}": span}), root / "models")
        steps.append(f"  - {{model: m{place}, inputs: {{x: t{place}}}, outputs: {{y: t{place + 1}}}}}\n")
    low, high = max(span[0] for span in spans), min(span[1] for span in spans)
    text = "name: chain\nsteps:\n" + "".join(reversed(steps))
    if low > high:
        with pytest.raises(UsageError, match="does not fit"):
            ensemble(root / "models", text)
    else:
        ensemble(root / "models", text)
        assert record(root / "models", "chain")["interface"]["dimensions"]["s0"] == {"min": low, "max": high}


# what stays true


def test_a_new_version_of_a_step_is_a_new_version_of_the_ensemble_and_back(models: Path, store: Store) -> None:
    ensemble(models)
    old = record(models, "digits")["bundle"]
    newer = make(store, "digits", *DIGITS, "1.1.0", n=(1, 5))
    changes = render(newer, models).changes
    assert [(change.model, change.number) for change in changes] == [("support", 2), ("digits", 2)], "it shrinks first"
    assert record(models)["steps"][1]["bundle"] == newer.digest
    assert config(models).max_batch_size == 5
    changes = render(make(store, "digits", *DIGITS, n=(1, 12)), models).changes
    assert [(change.model, change.number) for change in changes] == [("digits", 1), ("support", 1)]
    assert (record(models)["steps"][1]["bundle"], config(models).max_batch_size) == (old, 12)


def test_a_version_that_an_ensemble_cannot_take_is_refused_before_it_is_written(models: Path, store: Store) -> None:
    ensemble(models)
    before = snapshot(models)
    other = make(store, "digits", {"image": ("float32", "n", 9)}, {"output": ("float32", "n", 10)}, "2.0.0")
    with pytest.raises(
        UsageError, match=r"2\.0\.0 of `digits` does not fit the ensemble `support`: `features`"
    ) as caught:
        render(other, models)
    assert "another repository" in str(caught.value.hint)
    assert snapshot(models) == before


def test_what_a_killed_rendering_left_untrue_the_next_one_makes_true(models: Path, store: Store) -> None:
    """Killed between the configuration of the step and that of the ensemble."""
    ensemble(models)
    stale = (models / "support" / "config.pbtxt").read_bytes()
    newer = make(store, "digits", *DIGITS, "1.1.0", n=(1, 12))
    render(newer, models)
    fresh = snapshot(models)
    (models / "support" / "config.pbtxt").write_bytes(stale)
    assert record(models)["steps"][1]["bundle"] != newer.digest
    render(newer, models)
    assert snapshot(models) == fresh


def test_a_site_of_a_step_is_a_site_of_the_ensemble(models: Path, store: Store) -> None:
    ensemble(models)
    bundle = make(store, "digits", *DIGITS, n=(1, 12))
    render(bundle, models, Override("batch.max", "3", "--set"), site="berlin")
    assert config(models).max_batch_size == 12
    site = config(models, "support/configs/berlin.pbtxt")
    assert site.max_batch_size == 3
    assert record(models)["sites"]["berlin"]["steps"][1]["knobs"] == site.metric_tags["knobs_2"]
    assert site.metric_tags["knobs_2"] != config(models).metric_tags["knobs_2"]


def test_a_name_is_a_model_or_an_ensemble(models: Path, store: Store) -> None:
    ensemble(models)
    with pytest.raises(UsageError, match="`support` is an ensemble in"):
        render(make(store, "support", *PREPARE), models)
    with pytest.raises(UsageError, match="`digits` is a model in"):
        ensemble(models, SUPPORT.replace("name: support", "name: digits").replace("model: digits", "model: prepare"))
    with pytest.raises(UsageError, match="is an ensemble itself"):
        ensemble(models, "name: outer\nsteps:\n  - {model: support, inputs: {image: a}, outputs: {scores: b}}\n")
    (models / "foreign").mkdir()
    (models / "foreign" / "config.pbtxt").write_text('name: "foreign"\n')
    with pytest.raises(UsageError, match="was not rendered by packager"):
        ensemble(models, "name: outer\nsteps:\n  - {model: foreign, inputs: {image: a}, outputs: {scores: b}}\n")
    with pytest.raises(UsageError, match="`foreign` is a model in"):
        ensemble(models, SUPPORT.replace("name: support", "name: foreign"))
    with pytest.raises(UsageError, match="there is no model") as caught:
        ensemble(models.parent / "empty")
    assert "render the bundles" in str(caught.value.hint)


@pytest.mark.parametrize("damage", [b"{", b"[]", b'{"kind":"ensemble"}'])
def test_a_damaged_record_is_an_error_and_no_crash(models: Path, store: Store, damage: bytes) -> None:
    ensemble(models)
    (models / "support" / "1" / "deployment.json").write_bytes(damage)
    with pytest.raises(PackagerError, match=r"support/1/deployment.json"):
        render(make(store, "digits", *DIGITS, "1.1.0"), models)

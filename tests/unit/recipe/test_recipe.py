# SPDX-License-Identifier: Apache-2.0
"""The recipe: what is accepted, what is refused and in which words, and that editors are told the same.

`tests/data/recipes` holds one file per case, named after it: `good-` is accepted; `shape-` is refused by parser and
schema alike; `meaning-` only by the parser, because JSON Schema cannot say it; `text-` before there is a value at all.
`python -m tests.unit.recipe.test_recipe` writes the messages anew; review the difference.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from packager import canonical, names, semver, strictyaml
from packager.errors import SourceError, UsageError
from packager.lock import draft
from packager.recipe import clauses, fields, recipe
from packager.recipe.clauses import ExportSettings, InputSpec, Limits, RunsOn, Target, Tolerance
from packager.recipe.lengths import Axis, Lengths
from packager.recipe.recipe import Recipe
from tests.support.breadth import examples

DATA = Path(__file__).parents[2] / "data" / "recipes"
MESSAGES = DATA / "messages.json"
CASES = sorted(path.name for path in DATA.glob("*.yaml"))
REFUSED = [name for name in CASES if not name.startswith("good-")]
RUNTIMES = ("onnxruntime", "triton", "tensorrt-rtx")
SMALL = "name: digits\nversion: 1.4.0\nsource: models:/digits@champion\n"
SCHEMA = jsonschema.Draft202012Validator(json.loads(draft.build_schema()))


def parse(text: str) -> Recipe:
    return recipe.parse(text, "bundle.yaml", RUNTIMES)


def refusal(name: str) -> str:
    with pytest.raises(UsageError) as caught:
        recipe.parse((DATA / name).read_bytes(), name, RUNTIMES)
    return f"{caught.value.message} | {caught.value.hint}"


class Core(yaml.SafeLoader):
    """YAML 1.2 core schema with text keys: how editors read the file before they apply the schema."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        return {key.value: self.construct_object(value, deep=True) for key, value in node.value}


Core.yaml_implicit_resolvers = {}
for tag, pattern in (
    ("null", r"~|null|Null|NULL|"),
    ("bool", r"true|True|TRUE|false|False|FALSE"),
    ("int", r"[-+]?[0-9]+"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"),
):
    Core.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{pattern})$"), None)
Core.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
Core.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(node.value))
Core.add_constructor("tag:yaml.org,2002:map", Core.construct_mapping)


def test_three_lines_are_a_recipe() -> None:
    parsed = parse(SMALL)
    assert parsed == Recipe("digits", "1.4.0", "models:/digits@champion")
    assert parsed.runs_on == (RunsOn("onnxruntime", ">=1.17", ("fp32",), ("cpu",)),)
    assert [target.name for target in parsed.targets()] == ["onnxruntime-cpu-fp32"]
    assert parsed.tolerance_for("logits", "fp32") == Tolerance(1e-5, 1e-4)
    assert parsed.tolerance_for("logits", "fp16") == Tolerance(2e-3, 2e-2)
    assert parsed.tolerance_for("logits", "int8") == Tolerance(1e-5, 1e-4)


def test_everything_is_read() -> None:
    parsed = recipe.load(DATA / "good-everything.yaml", RUNTIMES)
    assert parsed.license == "Apache-2.0"
    assert parsed.authors == ("Ada Lovelace", "李")
    assert parsed.description == "Reads handwritten digits.\nIn two lines.\n"
    assert parsed.inputs == {"image": InputSpec("float32", ("batch", 1, 8, 8), (0, 1))}
    assert parsed.dynamic == {"batch": Axis.span(1, 64)}
    assert parsed.export == ExportSettings(17, 7, "serving_default")
    assert parsed.limits == Limits(16 << 30, 90)
    assert parsed.allow_pickle
    assert [target.name for target in parsed.targets()] == [
        "onnxruntime-cpu-fp32",
        "tensorrt-rtx-sm_120-fp16",
        "tensorrt-rtx-sm_86-fp16",
        "tensorrt-rtx-sm_89-fp16",
        "triton-cpu-fp32",
    ]
    assert Target.from_json(parsed.targets()[1].to_json()) == parsed.targets()[1]


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("good-")])
def test_good_is_accepted_and_survives_a_round_trip(name: str) -> None:
    parsed = recipe.parse((DATA / name).read_bytes(), name, RUNTIMES)
    assert recipe.from_json(parsed.to_json()) == parsed
    assert recipe.from_json(parsed.to_json()).digest == parsed.digest


@pytest.mark.parametrize("name", REFUSED)
def test_bad_is_refused_in_these_words(name: str) -> None:
    message = refusal(name)
    assert message == json.loads(MESSAGES.read_text())[name]
    assert re.match(rf"{re.escape(name)}:[0-9]+: [^A-Z]", message)
    assert not message.split(" | ")[0].endswith(".")


def test_every_recorded_message_has_its_case() -> None:
    assert sorted(json.loads(MESSAGES.read_text())) == REFUSED


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("text-")])
def test_editor_schema_agrees_with_the_parser(name: str) -> None:
    value = yaml.load((DATA / name).read_bytes(), Loader=Core)
    assert SCHEMA.is_valid(value) == name.startswith(("good-", "meaning-"))


def test_the_schema_repeats_the_patterns_of_the_parser() -> None:
    ours = {value for value in vars(fields).values() if isinstance(value, str)} | {names.NAME, semver.SEMVER}
    written = set(_patterns(json.loads(draft.build_schema())))
    assert written - {f"^(?:{pattern})$" for pattern in ours} - ours == {SCHEMA.schema["$defs"]["outside"]["pattern"]}


def _patterns(value: Any) -> Iterator[str]:
    for key, member in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from (member,) if key == "pattern" else _patterns(member)


def test_every_key_of_the_schema_is_described_and_parsed() -> None:
    properties = json.loads(draft.build_schema())["properties"]
    assert all("description" in each for each in properties.values())
    with pytest.raises(UsageError) as caught:
        parse(SMALL + "zzz: 1\n")
    assert caught.value.hint == "known: " + ", ".join(f"`{key}`" for key in sorted(properties))


def test_what_has_no_meaning_changes_no_digest() -> None:
    written = parse(
        SMALL + 'runs-on: {triton: ">=24.04", onnxruntime: {versions: "<2, >=1.17", devices: [cuda, cpu]}}\n'
    )
    same = parse(
        "# a comment\nruns-on:\n  onnxruntime:\n    devices: [cpu, cuda]\n    versions: '>=1.17,<2'\n"
        "    precision: fp32\n  triton: '>=24.04'\nsource: 'models:/digits@champion'\nversion: '1.4.0'\nname: digits\n"
    )
    assert written == same
    assert written.digest == same.digest
    assert written.digest != parse(SMALL).digest


def test_what_the_default_is_may_be_written() -> None:
    assert parse(SMALL + "policy: release\nlimits: {minutes: 30}\nexport: {seed: 0}\n").digest == parse(SMALL).digest


def test_the_digest_is_stable() -> None:
    """It is in lock files: a change here is a change of format."""
    assert parse(SMALL).digest == "sha256:ee00b6b18ed78bb9ea89949fe00a465c3e74a6c80355232703c320f8ef44c7e6"


def test_half_a_tolerance_is_completed() -> None:
    parsed = parse(SMALL + "tolerance: {logits: {atol: 1}, fp16: {rtol: 0.5}, default: {atol: 0.1}}\n")
    assert parsed.tolerance["logits"] == Tolerance(1, 1e-4)
    assert parsed.tolerance["fp16"] == Tolerance(2e-3, 0.5)
    assert parsed.tolerance_for("logits", "fp16") == Tolerance(1, 1e-4)


def test_tolerance_for_unknown_output_is_refused() -> None:
    parsed = parse(SMALL + "tolerance: {logit: {atol: 1}}\n")
    parsed.check_outputs(["logit"])
    with pytest.raises(UsageError, match="names `logit`, which is neither a precision nor an output"):
        parsed.check_outputs(["logits"])


def test_any_runtime_passes_when_none_are_given() -> None:
    assert recipe.parse(SMALL + 'runs-on: {new-one: ">=1"}\n', "b").runs_on[0].runtime == "new-one"


def test_a_missing_recipe_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"bundle.yaml` does not exist") as caught:
        recipe.load(tmp_path / "bundle.yaml")
    assert caught.value.hint == "write one with `packager init SOURCE`"


@pytest.mark.parametrize(
    "text",
    [
        SMALL + "description: " + "x" * (1 << 20),
        SMALL + "authors: [" + "a, " * 30_000 + "]",
        "{" * 200_000,
        "- " * 200_000,
        "? " * 100_000,
        SMALL + "description: '" + "'" * 500_000,
        SMALL + "dynamic: {" + "".join(f"k{i}: [1, 2], " for i in range(20_000)) + "}",
        SMALL + "export: {seed: " + "9" * 500_000 + "}",
        SMALL + "license: " + "(" * 400,
        SMALL + "name: " + "a-" * 400_000,
    ],
)
def test_hostile_text_is_refused_quickly(text: str) -> None:
    start = time.process_time()
    with pytest.raises(UsageError):
        parse(text)
    assert time.process_time() - start < 5


@settings(max_examples=examples(200), deadline=None)
@given(st.text() | st.binary())
def test_the_parser_is_total(text: str | bytes) -> None:
    try:
        recipe.parse(text, "bundle.yaml")
    except UsageError as error:
        assert error.message.startswith("bundle.yaml:")


RELEASES = st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,2}", fullmatch=True)
REST = st.sampled_from(["", "rc1", "a0", ".post2", ".dev3", "b1.post1.dev1"])
CLAUSES = st.one_of(
    st.builds("{}{}{}".format, st.sampled_from([">=", "<=", ">", "<", "==", "!=", "== ", "~= 1."]), RELEASES, REST),
    st.builds("{}{}.*".format, st.sampled_from(["==", "!=", ""]), RELEASES),
)


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(CLAUSES, min_size=1, max_size=4).map(", ".join))
def test_every_range_that_matches_is_pep_440(text: str) -> None:
    parsed = recipe.from_json({"name": "a", "version": "1.0.0", "source": "x", "runs-on": {"onnxruntime": text}})
    assert recipe.from_json(parsed.to_json()) == parsed


LINES = st.from_regex(r"[^\W_]([^\W_]| |[.:#&*!|>'\"%@`{}\[\],-]){0,20}[^\W_]", fullmatch=True)
WORDS = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
SPANS = st.tuples(st.integers(1, 99), st.integers(100, 2**31 - 1))
AXES = (
    SPANS.map(lambda span: Axis.span(*span))
    | st.builds(Axis, st.builds(Lengths, st.integers(1, 99), st.none(), st.integers(1, 64)), st.none() | SPANS)
    | st.builds(Axis, st.sets(st.integers(1, 9999), min_size=1).map(Lengths.of), st.none() | SPANS)
    | st.builds(
        Axis, st.builds(lambda also: Lengths(40, None, 8, (), (1, 7), tuple(sorted(also))), st.sets(st.integers(1, 39)))
    )
)
NUMBERS = st.floats(-(2**53) + 1, 0), st.floats(0, 2**53 - 1)
PROMISES = st.builds(
    RunsOn,
    WORDS,
    st.sampled_from([">=1.17", "==1.7.*", "<2,>=1.17"]),
    st.sets(st.sampled_from(fields.PRECISIONS), min_size=1).map(lambda found: tuple(sorted(found))),
    st.sets(st.from_regex(r"[a-z]{1,5}(_[0-9]{1,3})?", fullmatch=True), min_size=1).map(lambda s: tuple(sorted(s))),
)
INPUTS = st.builds(
    InputSpec,
    st.sampled_from([dtype for dtype in fields.DTYPES if dtype not in ("bool", "string")]),
    st.lists(st.integers(1, 2**31 - 1) | st.just("batch"), max_size=5).map(tuple),
    st.none() | st.tuples(*NUMBERS),
) | st.builds(
    InputSpec,
    st.none(),
    st.none() | st.just(("batch", 3)),
    st.none(),
    st.sets(st.integers(0, 99), min_size=1).map(lambda found: tuple(sorted(found)))
    | st.sets(WORDS, min_size=1).map(lambda found: tuple(sorted(found))),
)
TOLERANCES = st.builds(Tolerance, st.floats(0, 1e6), st.floats(0, 1e6))
RECIPES = st.builds(
    Recipe,
    name=st.from_regex(names.NAME, fullmatch=True).filter(lambda name: len(name) <= 63),
    version=st.from_regex(semver.SEMVER, fullmatch=True).filter(lambda version: len(version) <= 128),
    source=LINES,
    registry=st.none() | st.just("sqlite:///mlflow.db"),
    license=st.none() | st.just("Apache-2.0"),
    description=st.none() | LINES,
    authors=st.lists(LINES, max_size=3).map(tuple),
    card=st.none() | WORDS.map(lambda word: f"cards/x{word}.md"),
    dynamic=st.dictionaries(WORDS, AXES, max_size=3),
    runs_on=st.lists(PROMISES, min_size=1, max_size=3, unique_by=lambda promise: promise.runtime).map(
        lambda found: tuple(sorted(found, key=lambda promise: promise.runtime))
    ),
    tolerance=st.dictionaries(LINES, TOLERANCES, max_size=3).map(lambda found: clauses.built_in_tolerance() | found),
    allow_pickle=st.booleans(),
    custom_domains=st.sets(
        st.from_regex(fields.DOMAIN, fullmatch=True).filter(lambda d: len(d) <= 128), max_size=3
    ).map(lambda found: tuple(sorted(found))),
    toolchain=st.sampled_from(["host", "locked"]),
    export=st.builds(
        ExportSettings,
        st.none() | st.integers(7, 99),
        st.integers(0, 2**32 - 1),
        st.none() | st.sampled_from(["serve", "a b"]),
    ),
    limits=st.builds(Limits, st.none() | st.integers(1, 10**12 - 1), st.integers(1, 10080)),
    policy=st.sampled_from(["release", "dev", "policies/own.yaml"]),
)


@settings(max_examples=examples(150), deadline=None)
@given(RECIPES, st.none() | st.dictionaries(LINES, INPUTS, min_size=1, max_size=3))
def test_round_trip(written: Recipe, inputs: dict[str, InputSpec] | None) -> None:
    """What a record says in JSON is a recipe that a person could have written, with the same meaning."""
    value = written.to_json() if inputs is None else {**written.to_json(), "dynamic": {}}
    value |= {} if inputs is None else {"inputs": {name: spec.to_json() for name, spec in inputs.items()}}
    parsed = recipe.from_json(value)
    assert parsed == written if inputs is None else parsed.inputs == inputs
    assert recipe.from_json(json.loads(canonical.dump(parsed.to_json()))) == parsed
    assert recipe.parse(json.dumps(parsed.to_json(), indent=2, ensure_ascii=False), "b").digest == parsed.digest
    assert SCHEMA.is_valid(parsed.to_json())


def test_a_draft_offers_triton() -> None:
    """Without the `#` its line is a promise as it stands."""
    text = draft.draft("models:/iris@champion")
    assert [promise.runtime for promise in parse(text).runs_on] == ["onnxruntime"]
    offered = text.replace("  # triton:", "  triton:")
    assert sorted(promise.runtime for promise in parse(offered).runs_on) == ["onnxruntime", "triton"]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("models:/digits@champion", "digits"),
        ("models:/Digits Classifier/3", "digits-classifier"),
        ("models:/digits/latest", "digits"),
        ("runs:/0123456789abcdef/my_model", "my-model"),
        ("./exports/Net_v2.onnx", "net-v2"),
        ("file:///models/encoder/", "encoder"),
        ("model: odd # path", "model-odd-path"),
        ("./", "model"),
    ],
)
def test_a_draft_parses_and_is_named_after_its_source(source: str, name: str) -> None:
    if source.startswith("model: "):
        source = f"./{source}"
    parsed = parse(draft.draft(source))
    assert parsed == Recipe(name, "0.1.0", source)


def test_a_draft_holds_what_is_known() -> None:
    facts = {
        "registry": "http://127.0.0.1:5000",
        "version": "2.0.0",
        "inputs": {"sepal length (cm)": {"dtype": "float32", "shape": ["rows", 4]}},
        "dynamic": {"rows": [1, 8]},
    }
    parsed = parse(draft.draft("models:/iris@champion", facts))
    assert parsed.registry == "http://127.0.0.1:5000"
    assert parsed.inputs == {"sepal length (cm)": InputSpec("float32", ("rows", 4))}
    assert parsed.dynamic == {"rows": Axis.span(1, 8)}


def test_every_example_in_a_draft_parses() -> None:
    lines = draft.draft("models:/digits@champion").splitlines()
    freed = [
        re.sub(r"^# (?=( *[a-z0-9-]+):( |$)|  )", "", line) for line in lines if "yaml-language-server" not in line
    ]
    parsed = parse("\n".join(freed))
    assert parsed.registry == "sqlite:///mlflow.db"
    assert parsed.inputs and parsed.export.opset and parsed.limits.memory and parsed.card and parsed.authors


def test_a_draft_names_the_schema_for_editors_first() -> None:
    assert draft.draft("./model").startswith(f"# yaml-language-server: $schema={draft.SCHEMA}\n")


def test_draft_proposes_consent_and_never_grants_it(tmp_path: Path) -> None:
    """What runs code when it is opened, and what this host cannot read as its author did, stand in the draft."""
    (tmp_path / "model.pkl").write_bytes(b"_sklearn_version\x94\x8c\x061.5.2")
    (tmp_path / "net.ts").write_bytes(b"x")
    (tmp_path / "net.keras").write_bytes(b"x")
    pickled = draft.draft("model.pkl", draft.inspect_source("model.pkl", tmp_path))
    assert "\nallow-pickle: false " in pickled and "`model.pkl` is a pickle: true runs the code inside" in pickled
    assert "\ntoolchain: locked " in pickled and "made with scikit-learn 1.5.2, this host has 1." in pickled
    assert parse(pickled).toolchain == "locked" and not parse(pickled).allow_pickle
    assert "is a TorchScript archive" in draft.draft("net.ts", draft.inspect_source("net.ts", tmp_path))
    assert "`tensorflow` is not installed here" in draft.draft("net.keras", draft.inspect_source("net.keras", tmp_path))
    for elsewhere in ("models:/digits/3", "s3://bucket/x.pkl"):
        assert draft.inspect_source(elsewhere, tmp_path) == {}


def test_a_draft_says_that_a_source_brings_code_along(tmp_path: Path) -> None:
    """Opening a pickle may import it; a line that is not a comment any more consents to exactly these bytes."""
    for path, data in {"model.pkl": b"\x80\x04N.", "code/shim.py": b"import os", "code/more/x.py": b""}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    found = draft.inspect_source(".", tmp_path)
    assert found["code"]["files"] == ["code/more/x.py", "code/shim.py"]
    drafted = draft.draft(".", found)
    assert parse(drafted).allow_code is None
    (line,) = [line for line in drafted.splitlines() if "allow-code" in line]
    assert "`code/shim.py`" in line and "code of its author" in line
    assert parse(drafted.replace(line, line.removeprefix("# "))).allow_code == found["code"]["digest"]
    assert "digest that the build says" in draft.draft("x", {"code": {"files": ["code/x.py"], "digest": None}})
    (tmp_path / "model.pkl").rename(tmp_path / "model.pt2")
    assert "code" not in draft.inspect_source(".", tmp_path), "a kind that holds data imports nothing"


def test_what_can_be_drafted_can_be_locked(tmp_path: Path) -> None:
    (tmp_path / "model.sav").write_bytes(b"\x80\x04\x95\x0a\0\0\0\0\0\0\0}\x94\x8c\x01a\x94K\x01s.")
    (tmp_path / "net.onnx").write_bytes(b"x")
    (tmp_path / "weights.bin").write_bytes(b"GGUF\x03\0\0\0")
    assert "`model.sav` is a pickle" in str(draft.inspect_source("model.sav", tmp_path)["executes"])
    assert draft.name_from("models/swift-f0/model.onnx") == "swift-f0" and draft.name_from("./model.onnx") == "model"
    assert draft.name_from("digits.joblib.gz") == draft.name_from("digits.sav") == "digits"
    with pytest.raises(SourceError, match=r"`absent\.pkl` does not exist"):
        draft.inspect_source("absent.pkl", tmp_path)
    with pytest.raises(SourceError, match=r"`weights\.bin` is a GGUF file"):
        draft.inspect_source("weights.bin", tmp_path)
    with pytest.raises(SourceError, match=r"`net\.onnx` is not an ONNX file"):
        draft.inspect_source("net.onnx", tmp_path)


def test_a_source_is_written_as_the_recipe_sees_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert draft.relative_source("model.onnx", Path()) == "model.onnx"
    assert draft.relative_source("./encoder", Path("recipes/encoder")) == "../../encoder"
    assert draft.relative_source("models:/digits/3", Path("recipes")) == "models:/digits/3"
    assert draft.relative_source("/models/x", Path("recipes")) == "/models/x"


def test_scalars_are_read_as_yaml_1_2_reads_them() -> None:
    text = "[no, on, 1:30, 1_000, 1.10, 1e3, ~, 'null', true, -7, +7, .5, '', 2001-01-01, =, <<]"
    value = strictyaml.parse(text, "f").value()
    assert value == ["no", "on", "1:30", "1_000", 1.1, 1e3, None, "null", True, -7, 7, 0.5, "", "2001-01-01", "=", "<<"]


if __name__ == "__main__":
    MESSAGES.write_text(json.dumps({name: refusal(name) for name in REFUSED}, indent=1, ensure_ascii=False) + "\n")

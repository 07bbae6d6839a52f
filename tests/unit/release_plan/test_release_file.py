# SPDX-License-Identifier: Apache-2.0
"""Release files: what they mean, what is refused with its line, and that the published schema says the same."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jsonschema
import pytest

from packager.cluster.messages import Needs
from packager.errors import UsageError
from packager.release_plan import release_file
from packager.release_plan.release_file import Conform, Model, Promote, ReleaseFile, Settings

SCHEMA = jsonschema.Draft202012Validator(json.loads(release_file.build_schema()))
RECIPE = "name: {name}\nversion: 1.0.0\nsource: ./model.onnx\n"
WHOLE = """
recipes: ["*/bundle.yaml", b]
defaults:
  lock: check
  vendor: [linux_x86_64-cp311]
  policy: dev
  conform: {runtimes: ["onnxruntime==1.31.1"], level: L3, strict: true}
  sign: key:keys/release.pem
  push: oci://127.0.0.1:5000/models/{name}:{version}
  promote: {stage: staging, profile: gate.yaml, trust: acme.trust, sign: "certificate:leaf.pem?key=leaf.key&tsa=http://t"}
  resources: {cpus: 4, memory: 32GiB, gpus: 1, accelerator: H100}
models:
  a: {conform: none, promote: none, vendor: none, resources: none, after: [b]}
"""


def write(folder: Path, text: str, *names: str) -> Path:
    for name in names or ("a", "b"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "bundle.yaml").write_text(RECIPE.format(name=name))
    (folder / "release.yaml").write_text(text)
    return folder / "release.yaml"


def load(folder: Path, text: str, *names: str) -> ReleaseFile:
    return release_file.load(write(folder, text, *names))


def as_json(text: str) -> Any:
    from packager import strictyaml

    return strictyaml.parse(text, "release.yaml").value()


def test_everything_that_can_be_said_is_read(tmp_path: Path) -> None:
    a, b = load(tmp_path, WHOLE).models
    assert (a.name, a.version, a.recipe, a.after) == ("a", "1.0.0", str(tmp_path / "a" / "bundle.yaml"), ("b",))
    assert b.settings == Settings(
        lock="check",
        vendor=("linux_x86_64-cp311",),
        policy="dev",
        conform=Conform(("onnxruntime==1.31.1",), 3, True),
        sign=f"key:{tmp_path}/keys/release.pem",
        push="oci://127.0.0.1:5000/models/{name}:{version}",
        promote=Promote(
            "staging",
            f"{tmp_path}/gate.yaml",
            f"{tmp_path}/acme.trust",
            f"certificate:{tmp_path}/leaf.pem?{urlencode({'key': tmp_path / 'leaf.key', 'tsa': 'http://t'})}",
        ),
        resources=Needs(4, 32 << 30, 1, "H100"),
    )
    assert a.settings.resources == Needs()
    assert (a.settings.conform, a.settings.promote, a.settings.vendor) == (None, None, ())
    SCHEMA.validate(as_json(WHOLE))
    for model in (a, b):
        assert Model.from_json(json.loads(json.dumps(model.to_json()))) == model


def test_only_recipes_are_needed(tmp_path: Path) -> None:
    (model,) = load(tmp_path, "recipes: [a]\n").models
    assert model.settings == Settings() and model.settings.lock == "renew" and model.settings.build


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("defaults: {}\n", "`release` has no `recipes`"),
        ("recipes: []\n", "at least 1 items"),
        ("recipes: [nowhere/*]\n", "release.yaml:1: `recipes`: `nowhere/*` names no file"),
        ("recipes: ['*']\nmodel: {}\n", "release.yaml:2: `model` is not a key of `release`"),
        ("recipes: ['*']\ndefaults: {pushes: x}\n", "release.yaml:2: `pushes` is not a key of `defaults`"),
        ("recipes: ['*']\ndefaults: {after: [a]}\n", "`after` is not a key of `defaults`"),
        ("recipes: ['*']\nmodels: {c: {}}\n", "release.yaml:2: no recipe is called `c`"),
        ("recipes: ['*']\nmodels: {a: {sing: none}}\n", "`sing` is not a key of `models.a`"),
        ("recipes: ['*']\nmodels: {a: {}, a: {}}\n", "key `a` is already on line 2"),
        ("recipes: ['*']\ndefaults: {lock: maybe}\n", "`defaults.lock`: `maybe` is unknown"),
        ("recipes: ['*']\ndefaults: {build: false}\n", "`defaults.build`"),
        ("recipes: ['*']\ndefaults: {conform: {level: L9}}\n", "`defaults.conform.level`: expected `L0` to `L5`"),
        ("recipes: ['*']\ndefaults: {conform: {cells: []}}\n", "`cells` is not a key of `defaults.conform`"),
        ("recipes: ['*']\ndefaults: {sign: release.pem}\n", "expected a signer such as `key:release.pem`"),
        ("recipes: ['*']\ndefaults: {push: registry/x}\n", "expected an address"),
        ("recipes: ['*']\ndefaults: {promote: {stage: staging}}\n", "`defaults.promote` has no `trust`"),
        ("recipes: ['*']\ndefaults: {resources: {cpus: 0}}\n", "`defaults.resources.cpus`"),
        ("recipes: ['*']\ndefaults: {resources: {memory: 8}}\n", "`defaults.resources.memory`"),
        ("recipes: ['*']\ndefaults: {resources: {accelerator: a b}}\n", "expected a type that Ray knows"),
        ("recipes: ['*']\ndefaults: {resources: {tpus: 1}}\n", "`tpus` is not a key of `defaults.resources`"),
        ("recipes: ['*']\ndefaults: {promote: {stage: Pro D, trust: t, sign: 'key:k'}}\n", "expected a stage"),
    ],
)
def test_what_is_not_so_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)
    assert said in caught.value.message
    if "nowhere" not in text and "c: {}" not in text and "a: {}, a" not in text:
        assert not SCHEMA.is_valid(as_json(text))


def test_a_placeholder_that_is_unknown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"`\{digest\}` is unknown"):
        load(tmp_path, "recipes: ['*']\ndefaults: {push: 'oci://h/{digest}'}\n")


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "recipes: ['*']\n")
    (tmp_path / "b" / "bundle.yaml").write_text(RECIPE.format(name="a"))
    with pytest.raises(UsageError, match="two recipes are called `a`"):
        release_file.load(tmp_path / "release.yaml")


def test_two_models_do_not_go_to_one_address(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"both pushed to `oci://h/models:1\.0\.0`"):
        load(tmp_path, "recipes: ['*']\ndefaults: {push: 'oci://h/models:{version}'}\n")


def test_one_recipe_that_two_patterns_name_is_one_model(tmp_path: Path) -> None:
    assert [model.name for model in load(tmp_path, "recipes: [a, '*/bundle.yaml', ./a/bundle.yaml]\n").models] == [
        "a",
        "b",
    ]


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ({"a": ["a"]}, "a → a"),
        ({"a": ["b"], "b": ["c"], "c": ["a"]}, "a → b → c → a"),
        ({"a": ["z"]}, "no model is called `z`"),
    ],
)
def test_models_that_wait_for_each_other_are_refused(tmp_path: Path, after: dict[str, list[str]], said: str) -> None:
    lines = "".join(f"  {name}: {{after: {json.dumps(others)}}}\n" for name, others in after.items())
    with pytest.raises(UsageError) as caught:
        load(tmp_path, f"recipes: ['*']\nmodels:\n{lines}", "a", "b", "c")
    assert said in caught.value.message


def test_a_long_chain_is_no_circle_and_needs_no_deep_stack(tmp_path: Path) -> None:
    names = [f"m{number:04}" for number in range(1500)]
    lines = "".join(f"  {name}: {{after: [{before}]}}\n" for before, name in itertools.pairwise(names))
    assert len(load(tmp_path, f"recipes: ['*']\nmodels:\n{lines}", *names).models) == 1500


def test_a_recipe_that_cannot_be_read_is_one_model_that_fails(tmp_path: Path) -> None:
    """It has no name, so no address and no order; the other models are released."""
    write(tmp_path, "recipes: ['*']\n")
    (tmp_path / "b" / "bundle.yaml").write_text("name: b\nversoin: 1.0.0\nsource: x\n")
    good, bad = release_file.load(tmp_path / "release.yaml").models
    assert good.problem is None
    assert bad.name == "b/bundle.yaml"
    assert bad.problem and "versoin" in bad.problem["message"] and bad.problem["code"] == 2


def test_a_setting_of_the_command_line_stands_for_that_of_every_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its paths are relative to the working directory, those of the file to the file."""
    path = write(tmp_path, WHOLE)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    before = release_file.load(path).models
    given = ["policy=mine.yaml", "sign=key:mine.pem", "push=none", "conform={level: L1}", "lock=check"]
    after = release_file.load(path, given).models
    for old, new in zip(before, after, strict=True):
        here = str(tmp_path / "elsewhere")
        assert new.settings == replace(
            old.settings,
            policy=f"{here}/mine.yaml",
            sign=f"key:{here}/mine.pem",
            push=None,
            conform=Conform(level=1),
            lock="check",
        )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["policy"], "expected `KEY=VALUE`"),
        (["policy="], "expected `KEY=VALUE`"),
        (["polcy=dev"], "got `polcy=dev`"),
        (["recipes=[x]"], "got `recipes="),
        (["push=none", "push=none"], "`push` is given twice"),
        (["lock=perhaps"], "--set:1: "),
        (["policy=a\n---\nb"], "--set:"),
        (["push=oci://h/one"], "both pushed to `oci://h/one`"),
    ],
)
def test_what_is_no_setting_of_models_is_refused(tmp_path: Path, given: list[str], said: str) -> None:
    path = write(tmp_path, "recipes: ['*']\n")
    with pytest.raises(UsageError) as caught:
        release_file.load(path, given)
    assert said in caught.value.message

# SPDX-License-Identifier: Apache-2.0
"""What a refusal proposes can be pasted as it is printed, and `build --fix` writes it; consents stay a person's."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from packager.cli.console import Console
from packager.errors import StepError
from tests.e2e.conftest import Project
from tests.unit.recipe.test_hints import PAIR, TOKENS, network, parsed

RECIPE = """# a net
nmae: net   # what it is called
version: 1.0
source: ./model.onnx

dynamic:   # what is promised
  bacth: [1, 8]   # rows
tolerance: {scores: {atol: 0.1}}
"""


def test_a_recipe_is_mended_until_it_builds(project: Callable[..., Project], tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "model.onnx")
    here = project(RECIPE, **{"model.onnx": tmp_path / "model.onnx"})
    done = here.run("build", "--fix")
    assert (here.folder / "bundle.yaml").read_text() == RECIPE.replace("nmae", "name").replace(
        "1.0\n", "1.0.0\n"
    ).replace("bacth", "batch").replace("scores", "y")
    assert len(re.findall(r"^fixed bundle\.yaml at line \d+: ", done.stderr, re.MULTILINE)) == 4
    assert "net:1.0.0 sha256:" in done.stdout


def test_what_is_printed_can_be_pasted(project: Callable[..., Project], tmp_path: Path) -> None:
    onnx.save(parsed(TOKENS), tmp_path / "model.onnx")
    text = "name: net\nversion: 1.0.0\nsource: ./model.onnx\ndynamic:\n  rows: [2, 6400]\n  columns: [3, 9000]\n"
    here = project(text, **{"model.onnx": tmp_path / "model.onnx"})
    refused = here.run("build", code=1).stderr
    shown = re.search(
        r"  in bundle\.yaml, write instead of what begins on line 4, or let `packager build --fix` do it:\n((?:    .*\n)+)",
        refused,
    )
    assert shown, refused
    block = re.sub(r"^    ", "", shown[1], flags=re.MULTILINE)
    waiver = re.search(r"mine\.yaml beside it:\n((?:    .*\n)+)", refused)
    assert waiver, refused
    lines = re.sub(r"^    ", "", waiver[1], flags=re.MULTILINE)
    (here.folder / "mine.yaml").write_text(lines)
    here.write(text + "policy: mine.yaml\n")
    assert here.run("build", "--json")["verdict"]["ok"]
    here.write(text.partition("dynamic:")[0] + block)
    assert "`net:1.0.0` is another bundle in the local store" in here.run("build", code=2).stderr
    assert here.run("build", "--replace", "--json")["verdict"]["ok"]


def test_a_consent_is_never_written(project: Callable[..., Project], tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(b"\x80\x04K\x01.")
    text = "name: net\nversion: 1.0.0\nsource: ./model.pkl\n"
    here = project(text, **{"model.pkl": tmp_path / "model.pkl"})
    refused = here.run("build", "--fix", code=None)
    assert refused.returncode in (3, 4)
    assert (here.folder / "bundle.yaml").read_text() == text


@pytest.mark.slow  # two more builds; what is printed is pasted by default
def test_a_name_is_not_taken_from_another_bundle(project: Callable[..., Project], tmp_path: Path) -> None:
    """Two unlike models in files called `model.onnx`, both 0.1.0 of a name."""
    onnx.save(network(), tmp_path / "model.onnx")
    text = "name: model\nversion: 0.1.0\nsource: ./model.onnx\n"
    here = project(text, **{"model.onnx": tmp_path / "model.onnx"})
    first = here.run("build", "--json")["digest"]
    assert here.run("build", "--json")["digest"] == first, "the same bundle is built again without a word"
    onnx.save(parsed(PAIR), here.folder / "model.onnx")
    refused = here.run("build", code=2).stderr
    assert f"`model:0.1.0` is another bundle in the local store: {first}" in refused
    assert "hint: write `version: 0.1.1` (or another `name`) in the recipe; to let the name mean" in refused
    assert here.run("inspect", "model:0.1.0", "--json")["digest"] == first
    here.write(text.replace("0.1.0", "0.1.1"))
    assert "`model:0.1.0` in the store is another model: it takes `x`" in here.run("build", code=1).stderr
    here.write(text)
    assert "warning: `model:0.1.0` was" in here.run("build", "--replace").stderr
    assert here.run("inspect", "model:0.1.0", "--json")["digest"] != first


@pytest.mark.parametrize("quiet", [False, True])
def test_the_only_explanation_is_shown(capsys: pytest.CaptureFixture[str], quiet: bool) -> None:
    console = Console(json=False, quiet=quiet)
    console.fail(StepError("step `export` crashed with SIGSEGV", log="the cause", died=True))
    assert "  | the cause" in capsys.readouterr().err
    console.fail(StepError("the source does not run", hint="run it", log="noise"))
    assert ("  | noise" in capsys.readouterr().err) == (not quiet)

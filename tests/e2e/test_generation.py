# SPDX-License-Identifier: Apache-2.0
"""A language model from its directory to answers at a site: every step of the command line, with real files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import Project
from tests.support import language_models

pytestmark = pytest.mark.xdist_group("generation")
RECIPE = """\
name: tiny
version: 1.0.0
source: model
task: text-generation
policy: dev
runs-on:
  onnxruntime: ">=1.31"
"""
ASK = ("--prompt", "What is a module?", "--max-tokens", "12", "--json")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("language-model")
    language_models.write(folder / "model")
    (folder / "bundle.yaml").write_text(RECIPE)
    made = Project(folder, folder / "store", {"PACKAGER_PASSPHRASE": "secret"})
    made.run("keygen", "release")
    made.run("lock")
    made.run("build", "-o", "tiny.bundle.tar")
    made.run("sign", "tiny.bundle.tar", "--key", "release.pem")
    return made


@pytest.fixture(scope="module")
def site(project: Project) -> Path:
    project.run("install", "tiny.bundle.tar", "site", "--key", "release.pub")
    return project.folder / "site"


def test_the_bundle_carries_data_alone(project: Project) -> None:
    project.run("unpack", "tiny.bundle.tar", "plain", "--key", "release.pub")
    plain = project.folder / "plain"
    assert sorted(path.name for path in (plain / "generation").iterdir()) == ["chat_template.jinja", "tokenizer.json"]
    contract = json.loads((plain / "contract.json").read_text())
    assert contract["generation"]["context"] == 256
    assert set(contract["targets"]["onnxruntime-cpu-fp32"]["tolerance"]) == {"logits"}
    assert [row["name"] for row in json.loads((plain / "vectors" / "prompts.json").read_text())["prompts"]]
    lock = (plain / "deps" / "onnxruntime" / "requirements.txt").read_text()
    assert "tokenizers==" in lock and "jinja2==" in lock.lower() and "transformers" not in lock


def test_bundle_and_installation_answer_alike(project: Project, site: Path) -> None:
    of_bundle = project.run("chat", "tiny.bundle.tar", "--key", "release.pub", *ASK)
    of_site = project.run("chat", site, *ASK)
    assert of_bundle["tokens"] == of_site["tokens"] and len(of_bundle["tokens"]) == 12
    assert of_bundle["finish"] == "length" and of_bundle["text"] == of_site["text"]


def test_an_unsigned_bundle_is_not_run(project: Project) -> None:
    project.run("build", "-o", "unsigned.bundle.tar")
    done = project.run("chat", "tiny:1.0.0", "--prompt", "x", code=2)
    assert "no trusted key" in done.stderr
    project.run("keygen", "other")
    done = project.run("chat", "tiny.bundle.tar", "--key", "other.pub", "--prompt", "x", code=1)
    assert "error:" in done.stderr


def test_a_conversation_goes_on_line_by_line(project: Project, site: Path) -> None:
    done = project.run("chat", site, "--max-tokens", "4", prefix=("sh", "-c", 'printf "Hi\\nAnd now?\\n" | "$@"', "sh"))
    assert "a context of 256 tokens" in done.stderr
    assert done.stdout.count("\n") >= 2


def test_a_prompt_that_does_not_fit_is_refused(project: Project, site: Path) -> None:
    done = project.run("chat", site, "--prompt", "word " * 400, code=2)
    assert "the context 256 for prompt and answer together" in done.stderr
    done = project.run("chat", site, "--prompt", "x", "--temperature", "-1", code=2)
    assert "`temperature`: expected a number from 0 to 100" in done.stderr


def test_seeds_repeat(project: Project, site: Path) -> None:
    def drawn(seed: str) -> object:
        return project.run("chat", site, *ASK, "--temperature", "1", "--seed", seed)["tokens"]

    assert drawn("1") == drawn("1") != drawn("2")


def test_a_second_build_in_another_place_gives_the_same_digest(project: Project, tmp_path: Path) -> None:
    other = Project(tmp_path / "elsewhere", tmp_path / "store")
    other.folder.mkdir()
    language_models.write(other.folder / "model")
    (other.folder / "bundle.yaml").write_text(RECIPE)
    (other.folder / "bundle.lock").write_bytes((project.folder / "bundle.lock").read_bytes())
    again = other.run("build", "--json", PYTHONHASHSEED="77")
    assert again["digest"] == project.run("build", "--json")["digest"]


def test_a_lying_tokenizer_class_fails_the_build(project: Project, tmp_path: Path) -> None:
    other = Project(tmp_path / "lying", tmp_path / "store")
    other.folder.mkdir()
    language_models.write(other.folder / "model")
    language_models.edit(other.folder / "model" / "tokenizer_config.json", tokenizer_class="RobertaTokenizer")
    (other.folder / "bundle.yaml").write_text(RECIPE)
    other.run("lock")
    done = other.run("build", code=1)
    assert "case `prompt plain`, output `prompt_ids`" in done.stderr


def test_a_task_needs_a_language_model(project: Project, tmp_path: Path) -> None:
    other = Project(tmp_path / "bert", tmp_path / "store")
    other.folder.mkdir()
    language_models.write(other.folder / "model", "bert")
    (other.folder / "bundle.yaml").write_text(RECIPE)
    other.run("lock")
    done = other.run("build", code=4)
    assert "`BertForMaskedLM` takes no key-value cache" in done.stderr and "hint:" in done.stderr
    (other.folder / "bundle.yaml").write_text(RECIPE + "inputs: {x: {dtype: float32}}\n")
    done = other.run("lock", code=2)
    assert "`inputs` has no meaning beside `task`" in done.stderr

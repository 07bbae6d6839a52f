# SPDX-License-Identifier: Apache-2.0
"""The BentoML source against a store that a real BentoML wrote."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from packager import exporters
from packager.errors import IntegrityError, PackagerError, SourceError, UsageError
from packager.events import ignore
from packager.sources import Pin, Settings, bentoml, load_for
from tests.support.bentos import write_store

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("bentoml"))


@pytest.fixture
def home(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "home")


def settings(home: Path, ref: str = "") -> Settings:
    return Settings(home.parent, ref, bentoml=home)


def version(home: Path, name: str) -> str:
    return (home / "models" / name / "latest").read_text()


def refusal(home: Path, ref: str) -> PackagerError:
    with pytest.raises(PackagerError) as caught:
        bentoml.resolve(ref, settings(home))
    assert caught.value.hint
    assert str(home) not in caught.value.message
    return caught.value


def test_latest_becomes_a_tag_with_the_digest_of_its_files(home: Path, tmp_path: Path) -> None:
    pin = bentoml.resolve("bentoml:relu:latest", settings(home))
    assert pin.uri == f"bentoml:relu:{version(home, 'relu')}"
    assert bentoml.resolve("bentoml:relu", settings(home)) == pin == bentoml.resolve(pin.uri, settings(home))
    assert set(pin.details["files"]) == {"model.yaml", "saved_model.onnx"}
    assert str(home) not in json.dumps(pin.to_json())
    out = tmp_path / "out"
    out.mkdir()
    bentoml.fetch(Pin.from_json(json.loads(json.dumps(pin.to_json()))), settings(home), out, ignore)
    assert {path.name for path in out.iterdir()} == {"model.yaml", "saved_model.onnx"}
    assert load_for("bentoml:relu:latest") is bentoml


def test_a_file_that_changed_after_the_lock_is_named(home: Path, tmp_path: Path) -> None:
    pin = bentoml.resolve("bentoml:relu", settings(home))
    with (home / "models" / "relu" / version(home, "relu") / "saved_model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(SourceError, match=r"`saved_model\.onnx` is not what the lock pinned"):
        bentoml.fetch(pin, settings(home), tmp_path / "out", ignore)


KINDS = {
    "regression": ("sklearn-pickle", "saved_model.pkl"),
    "pickled": ("sklearn-pickle", "saved_model.pkl"),
    "light": ("lightgbm", "saved_model.ubj"),
    "trees": ("xgboost", "saved_model.ubj"),
    "relu": ("onnx", "saved_model.onnx"),
    "plain": ("onnx", "model.onnx"),
    "net": ("torch-pickle", "saved_model.pt"),
    "script": ("torchscript", "saved_model.pt"),
    "bert": ("transformers", "."),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_module_that_saved_it_chooses_the_exporter(home: Path, name: str) -> None:
    folder = home / "models" / name / version(home, name)
    names = [path.name for path in folder.iterdir()]
    assert exporters.detect_kind(names, lambda path: (folder / path).read_bytes()) == KINDS[name]


def test_unexportable_module_is_refused_with_a_remedy(home: Path) -> None:
    folder = home / "models" / "strange" / version(home, "strange")
    names = [path.name for path in folder.iterdir()]
    with pytest.raises(SourceError, match=r"`bentoml\.catboost` are not exported") as caught:
        exporters.detect_kind(names, lambda path: (folder / path).read_bytes())
    assert "onnx" in str(caught.value.hint)


def test_what_is_not_there(home: Path, tmp_path: Path) -> None:
    assert "did you mean `relu`" in str(refusal(home, "bentoml:rellu").hint)
    assert "has no version `x1`" in refusal(home, "bentoml:relu:x1").message
    (home / "models" / "relu" / "latest").unlink()
    assert "names no latest version" in refusal(home, "bentoml:relu").message
    with pytest.raises(SourceError, match="no BentoML store at") as caught:
        bentoml.resolve("bentoml:relu", settings(tmp_path / "nowhere"))
    assert "BENTOML_HOME" in str(caught.value.hint)


@pytest.mark.parametrize(
    "ref", ["bentoml:../x:1", "bentoml:a/b:1", "bentoml:a:..", "bentoml::1", "bentoml:A:1", "bentoml:a:b:c"]
)
def test_a_tag_that_could_leave_the_store(home: Path, ref: str) -> None:
    assert isinstance(refusal(home, ref), UsageError)


def test_hostile_stores(home: Path, tmp_path: Path) -> None:
    models = home / "models"
    (models / "relu" / "latest").write_text("../../../etc")
    assert "names no latest version" in refusal(home, "bentoml:relu").message
    (models / "light" / version(home, "light") / "more").symlink_to("/etc/passwd")
    assert "is a symbolic link" in refusal(home, "bentoml:light").message
    (models / "out").symlink_to(tmp_path)
    assert "has no model `out`" in refusal(home, "bentoml:out:latest").message
    folder = models / "trees" / version(home, "trees")
    (folder / "Saved_Model.ubj").write_bytes(b"x")
    with pytest.raises(IntegrityError, match="collides"):
        bentoml.resolve("bentoml:trees", settings(home))


RECIPE = "name: m\nversion: 1.0.0\nsource: bentoml:{}:latest\n"


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("relu", ""),
        pytest.param("trees", "", marks=pytest.mark.slow),
        pytest.param("light", "", marks=pytest.mark.slow),
        pytest.param("regression", "allow-pickle: true\n", marks=pytest.mark.slow),
        pytest.param("bert", "", marks=pytest.mark.slow),
        pytest.param(
            "net", "allow-pickle: true\ninputs: {x: {dtype: float32, shape: [batch, 4]}}\n", marks=pytest.mark.slow
        ),
        pytest.param(
            "script", "allow-pickle: true\ninputs: {x: {dtype: float32, shape: [batch, 4]}}\n", marks=pytest.mark.slow
        ),
    ],
)
def test_bundles_are_built_from_it(packager: Run, written: Path, tmp_path: Path, name: str, more: str) -> None:
    if more and not shutil.which("bwrap"):
        pytest.skip("bubblewrap is needed for pickles")
    (tmp_path / "bundle.yaml").write_text(RECIPE.format(name) + more)
    if more:
        (tmp_path / "bundle.yaml").write_text(RECIPE.format(name))
        assert ": opening it runs the code inside" in packager("lock", BENTOML_HOME=str(written), code=4).stderr
        (tmp_path / "bundle.yaml").write_text(RECIPE.format(name) + more)
    done = packager("build", "--json", BENTOML_HOME=str(written))
    assert json.loads(done.stdout)["verdict"]["ok"]
    lock = (tmp_path / "bundle.lock").read_text()
    assert f"bentoml:{name}:{version(written, name)}" in lock
    assert str(written) not in lock
    assert json.loads(packager("build", "--locked", "--json", BENTOML_HOME=str(written)).stdout)["executed"] == 0

# SPDX-License-Identifier: Apache-2.0
"""Which recipes follow a registry, and the recipe of one version."""

from __future__ import annotations

from pathlib import Path

import pytest

from packager.build.project import load_recipe
from packager.errors import UsageError
from packager.release_plan import release_file
from packager.release_plan.release_file import Model
from packager.watch.targets import drop_recipe, list_targets, write_recipe

RECIPE = """# our model
name: net
version: 1.4.0  # counted by the registry
source: "models:/team net@champion"
registry: https://mlflow.example.com
metadata: {version: kept}
"""


def models(folder: Path, text: str) -> tuple[Model, ...]:
    (folder / "net").mkdir(exist_ok=True)
    (folder / "net" / "bundle.yaml").write_text(text)
    (folder / "release.yaml").write_text("recipes: [net]\n")
    return release_file.load(folder / "release.yaml").models


def test_the_recipe_of_a_version_differs_in_two_lines(tmp_path: Path) -> None:
    text = RECIPE.replace("metadata: {version: kept}\n", "")
    (target,) = list_targets(models(tmp_path, text), None)
    assert (target.name, target.alias, target.registry) == ("team net", "champion", "https://mlflow.example.com")
    made = write_recipe(target, "7")
    assert (made.name, made.version) == ("net", "1.4.7")
    written = Path(made.recipe).read_text()
    assert [a for a, b in zip(text.splitlines(), written.splitlines(), strict=True) if a == b] == [
        "# our model",
        "name: net",
        "registry: https://mlflow.example.com",
    ]
    parsed = load_recipe(Path(made.recipe))
    assert (parsed.version, parsed.source) == ("1.4.7", "models:/team net/7")
    assert release_file.load(tmp_path / "release.yaml").models[0].version == "1.4.0", "the file is in nobody's way"
    drop_recipe(target, "7")
    assert [path.name for path in (tmp_path / "net").iterdir()] == ["bundle.yaml"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("models:/team net@champion", "./model.onnx", "follows a registry"),
        ("models:/team net@champion", "models:/net/3", "follows a registry"),
        ("registry: https://mlflow.example.com", "registry: sqlite:///mlflow.db", "needs a registry server"),
        ("registry: https://mlflow.example.com\n", "", "needs a registry server"),
        ("1.4.0", "1.4.0-rc.1", "cannot be counted"),
    ],
)
def test_what_cannot_be_followed_is_an_error(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = RECIPE.replace("metadata: {version: kept}\n", "").replace(old, new)
    with pytest.raises(UsageError, match=message):
        list_targets(models(tmp_path, text), None)


def test_a_recipe_that_changed_is_an_error(tmp_path: Path) -> None:
    (target,) = list_targets(models(tmp_path, RECIPE.replace("metadata: {version: kept}\n", "")), None)
    Path(target.model.recipe).write_text("name: other\nversion: 1.0.0\nsource: ./x\n")
    with pytest.raises(UsageError, match="changed while it was watched"):
        write_recipe(target, "7")

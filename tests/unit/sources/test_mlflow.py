# SPDX-License-Identifier: Apache-2.0
"""The MLflow source against a real registry in a SQLite database."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from packager import sources
from packager.errors import MissingToolError, SourceError, UsageError
from packager.lock import draft
from packager.sources import Pin, Settings, _mlflow, _mlflow_sqlite
from packager.sources import mlflow as source
from tests.support.mlflow_registries import NOWHERE, Registry, client_of, fetched, log_models, refusal, state

pytest.importorskip("mlflow")
pytest.importorskip("torch")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    base, home = tmp_path_factory.mktemp("a project?#%20é"), tmp_path_factory.mktemp("home")
    ids = log_models(f"sqlite:///{home}/mlflow.db", f"{home}/artifacts")
    # Only now to its place: MLflow cannot write to a path that holds such characters; we can read there.
    shutil.move(home / "mlflow.db", base)
    return Registry(base, home / "artifacts", *ids)


def test_every_form_names_the_logged_model(registry: Registry) -> None:
    forms = {
        "models:/digits@champion": registry.pt2,
        "models:/digits/1": registry.pt2,
        f"models:/{registry.pt2}": registry.pt2,
        f"runs:/{registry.run}/pt2": registry.pt2,
        "models:/digits/2": registry.pickled,
        "models:/digits/latest": registry.onnx,
        "models:/digits@next": registry.onnx,
    }
    assert {ref: source.resolve(ref, registry.settings).uri for ref in forms} == {
        ref: f"models:/{model_id}" for ref, model_id in forms.items()
    }


def test_a_pin_says_what_and_not_where(registry: Registry) -> None:
    pin = source.resolve("models:/digits@champion", registry.settings)
    details = {"name": "digits", "version": "1", "model_id": registry.pt2, "run_id": registry.run}
    assert pin == Pin("mlflow", f"models:/{registry.pt2}", details)
    assert pin == source.resolve("models:/digits/1", registry.settings)


def test_reading_the_database_says_what_mlflows_client_says(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = ["models:/digits@champion", "models:/digits@next", "models:/digits/2", f"models:/{registry.pickled}"]

    def answers(folder: Path) -> list[object]:
        folder.mkdir()
        pins = [source.resolve(ref, registry.settings) for ref in refs]
        files = [fetched(pin, registry.settings, folder / str(number)) for number, pin in enumerate(pins)]
        return [pins, files, [source.list_files(ref, registry.settings, folder) for ref in refs]]

    code = (
        "import json, sys; from pathlib import Path; from packager.sources import Settings, mlflow; "
        "from packager.events import ignore; here = Settings(Path(sys.argv[1])); out = Path(sys.argv[2]); out.mkdir()\n"
        "for ref in sys.argv[3:]: mlflow.fetch(mlflow.resolve(ref, here), here, out, ignore)\n"
        "print(sorted({'mlflow', 'sqlalchemy', 'pandas'} & set(sys.modules)))"
    )
    words = [sys.executable, "-c", code, registry.base, tmp_path / "quiet", *refs[:1]]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "[]\n", "none of them is needed"
    read = answers(tmp_path / "read")
    monkeypatch.setattr(_mlflow_sqlite, "REVISIONS", ())
    with pytest.raises(_mlflow_sqlite.UnansweredError), _mlflow.open_database(registry.settings):
        pass
    assert read == answers(tmp_path / "asked")


UNPLAIN = {
    "a version that is not ready": "UPDATE model_versions SET status = 'PENDING_REGISTRATION' WHERE version = 1",
    "a version that was deleted": "UPDATE model_versions SET current_stage = 'Deleted_Internal' WHERE version = 1",
    "a version of another source": "UPDATE model_versions SET source = 'runs:/1/m' WHERE version = 1",
    "a model that was deleted": "UPDATE logged_models SET lifecycle_stage = 'deleted' WHERE model_id = :id",
    "a model that is not ready": "UPDATE logged_models SET status = 1 WHERE model_id = :id",
    "a model that is not there": "DELETE FROM logged_models WHERE model_id = :id",
    "a workspace": "INSERT INTO registered_models (name, workspace) VALUES ('digits', 'other')",
    "no table": "DROP TABLE registered_model_aliases",
    "another schema": "UPDATE alembic_version SET version_num = '0123456789ab'",
}


@pytest.mark.parametrize("change", UNPLAIN.values(), ids=UNPLAIN)
def test_what_is_not_plain_is_left_to_mlflows_client(
    change: str, copied: tuple[Settings, Path], registry: Registry
) -> None:
    settings, _ = copied

    def ask() -> None:
        with _mlflow.open_database(settings) as opened:
            version = opened.client.get_model_version_by_alias("digits", "champion")
            opened.client.get_logged_model(version.source.removeprefix("models:/"))

    ask()
    with contextlib.closing(sqlite3.connect(settings.base / "mlflow.db")) as database, database:
        database.execute("PRAGMA foreign_keys = OFF")
        database.execute(change, {"id": registry.pt2} if ":id" in change else {})
    with pytest.raises(_mlflow_sqlite.UnansweredError):
        ask()


@pytest.mark.parametrize(("ref", "file"), [("champion", "data/model.pt2"), ("next", "model.onnx")])
def test_what_is_fetched_is_what_was_logged(ref: str, file: str, registry: Registry, tmp_path: Path) -> None:
    pin = source.resolve(f"models:/digits@{ref}", registry.settings)
    files = fetched(pin, registry.settings, tmp_path / "out")
    logged = registry.artifacts / "models" / pin.details["model_id"] / "artifacts"
    assert files == {path.relative_to(logged).as_posix(): path.read_bytes() for path in logged.rglob("*.*")} | {
        "MLmodel": (logged / "MLmodel").read_bytes()
    }
    assert {file, "MLmodel", "requirements.txt"} <= set(files)


def test_a_pickled_model_is_fetched_without_being_opened(registry: Registry, tmp_path: Path) -> None:
    pin = source.resolve("models:/digits/2", registry.settings)
    assert "data/model.pth" in fetched(pin, registry.settings, tmp_path / "out")


@pytest.mark.parametrize(("version", "asks"), [("1", False), ("2", True)])
def test_draft_of_registered_model_proposes_needed_consent(version: str, asks: bool, registry: Registry) -> None:
    found = draft.inspect_source(f"models:/digits/{version}", registry.base, "sqlite:///mlflow.db")
    assert ("executes" in found) is asks
    assert ("\nallow-pickle: false " in draft.draft(f"models:/digits/{version}", found)) is asks


def test_parts_of_models_and_plain_artifacts_of_runs(registry: Registry, tmp_path: Path) -> None:
    part = source.resolve(f"runs:/{registry.run}/pt2/data", registry.settings)
    assert part.uri == f"models:/{registry.pt2}/data"
    assert list(fetched(part, registry.settings, tmp_path / "part")) == ["model.pt2"]
    for ref, name in {"notes": "a.txt", "notes/a.txt": "a.txt"}.items():
        pin = source.resolve(f"runs:/{registry.run}/{ref}", registry.settings)
        assert pin == Pin("mlflow", f"runs:/{registry.run}/{ref}", {"run_id": registry.run})
        assert fetched(pin, registry.settings, tmp_path / ref.replace("/", "-")) == {name: b"plain"}


def test_nothing_is_written_and_nothing_stays_behind(registry: Registry, tmp_path: Path) -> None:
    import mlflow

    (tmp_path / "out").mkdir()
    before = state(registry.base), dict(os.environ), logging.getLogger("mlflow").level
    fetched(source.resolve("models:/digits@champion", registry.settings), registry.settings, tmp_path / "out")
    refusal("models:/digits@nobody", registry.settings)
    after = state(registry.base), dict(os.environ), logging.getLogger("mlflow").level
    assert after == before
    assert mlflow.get_tracking_uri() == NOWHERE


def test_fresh_process_has_no_output(registry: Registry, tmp_path: Path) -> None:
    """No chatter of MLflow or alembic, no bars, no telemetry thread, no file in the working directory."""
    code = (
        "import sys, threading; from pathlib import Path; from packager.sources import Settings, mlflow\n"
        "s = Settings(Path(sys.argv[1])); pin = mlflow.resolve('models:/digits@champion', s)\n"
        "mlflow.fetch(pin, s, Path(sys.argv[2]), lambda event: None)\n"
        "assert threading.active_count() == 1, threading.enumerate()"
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "cwd").mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "PYTEST", "CI"))}
    done = subprocess.run(
        [sys.executable, "-c", code, registry.base, tmp_path / "out"],
        cwd=tmp_path / "cwd",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list((tmp_path / "cwd").iterdir()) == []


@pytest.mark.parametrize(
    ("ref", "message", "hint"),
    [
        ("models:/digit@champion", "the registry has no model `digit`", "did you mean `digits`? known: `digits`"),
        ("models:/digit/1", "the registry has no model `digit`", "did you mean `digits`? known: `digits`"),
        ("models:/digit/latest", "the registry has no model `digit`", "did you mean `digits`? known: `digits`"),
        ("models:/digits@nex", "model `digits` has no alias `nex`", "did you mean `next`? known: `champion`, `next`"),
        ("models:/digits/9", "model `digits` has no version `9`", "it has 1, 2, 3"),
        ("models:/it's/1", "the registry has no model `it's`", "did you mean `digits`? known: `digits`"),
        (
            "runs:/0123/model",
            "the registry has no run `0123`",
            "compare `registry` in the recipe, or MLFLOW_TRACKING_URI, with where the run was logged",
        ),
    ],
)
def test_what_the_registry_does_not_have(ref: str, message: str, hint: str | None, registry: Registry) -> None:
    error = refusal(ref, registry.settings)
    assert (type(error), error.message, error.hint) == (SourceError, message, hint)


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("models:/digits", "source `models:/digits` names no version"),
        ("models:/digits/", "source `models:/digits/` names no version"),
        ("models:/digits/Production", "source `models:/digits/Production` names a stage, which is no longer supported"),
        ("models:/a/b/c", "source `models:/a/b/c` has too many parts"),
        ("runs:/0123", "source `runs:/0123` names no artifact"),
        ("runs:/0123/../x", "source `runs:/0123/../x` names an impossible path: path '../x' is absolute or leaves its"),
    ],
)
def test_what_cannot_be_a_reference(ref: str, message: str, registry: Registry) -> None:
    error = refusal(ref, registry.settings)
    assert isinstance(error, UsageError)
    assert error.message.startswith(message)


def test_an_alias_may_move_and_the_pin_does_not(registry: Registry, tmp_path: Path) -> None:
    shutil.copytree(registry.base, tmp_path / "copy")
    settings = Settings(tmp_path / "copy")
    with client_of(f"sqlite:///{tmp_path}/copy/mlflow.db") as mlflow:
        before = source.resolve("models:/digits@champion", settings)
        mlflow.MlflowClient().set_registered_model_alias("digits", "champion", "2")
        after = source.resolve("models:/digits@champion", settings)
    assert (before.details["version"], after.details["version"]) == ("1", "2")
    assert "data/model.pt2" in fetched(before, settings, tmp_path / "before")
    assert "data/model.pth" in fetched(after, settings, tmp_path / "after")


@pytest.fixture
def copied(registry: Registry, tmp_path: Path) -> tuple[Settings, Path]:
    """A private copy of the registry whose records point at private artifacts."""
    base = tmp_path / "copy"
    shutil.copytree(registry.base, base)
    shutil.copytree(registry.artifacts, base / "artifacts")
    with contextlib.closing(sqlite3.connect(base / "mlflow.db")) as database, database:
        old, new = str(registry.artifacts), f"{base}/artifacts"
        database.execute("UPDATE logged_models SET artifact_location = replace(artifact_location, ?, ?)", (old, new))
        database.execute("UPDATE model_versions SET storage_location = replace(storage_location, ?, ?)", (old, new))
        database.execute("UPDATE runs SET artifact_uri = replace(artifact_uri, ?, ?)", (old, new))
    return Settings(base), base / "artifacts" / "models" / registry.pt2 / "artifacts"


def test_artifacts_that_are_gone(copied: tuple[Settings, Path], registry: Registry, tmp_path: Path) -> None:
    settings, artifacts = copied
    pin = source.resolve("models:/digits@champion", settings)
    shutil.rmtree(artifacts)
    with pytest.raises(SourceError, match=f"the artifacts of `{registry.pt2}` are not on this machine"):
        fetched(pin, settings, tmp_path / "out")
    artifacts.mkdir()
    with pytest.raises(SourceError, match="holds no files"):
        fetched(pin, settings, tmp_path / "out")


def test_links_among_the_artifacts_are_refused(
    copied: tuple[Settings, Path], registry: Registry, tmp_path: Path
) -> None:
    settings, artifacts = copied
    (artifacts / "data" / "more").symlink_to("/etc")
    with pytest.raises(SourceError, match="source file `data/more` is a symbolic link"):
        fetched(source.resolve("models:/digits/1", settings), settings, tmp_path / "out")
    with pytest.raises(SourceError, match="not on this machine"):
        fetched(source.resolve(f"runs:/{registry.run}/pt2/data/more", settings), settings, tmp_path / "out")


def test_the_note_of_an_earlier_download_is_left_out(copied: tuple[Settings, Path], tmp_path: Path) -> None:
    settings, artifacts = copied
    (artifacts / "registered_model_meta").write_text("model_name: digits\n")
    pin = source.resolve("models:/digits/1", settings)
    assert "registered_model_meta" not in fetched(pin, settings, tmp_path / "out")


def test_a_version_from_before_mlflow_3_is_pinned_by_number(copied: tuple[Settings, Path], tmp_path: Path) -> None:
    settings, artifacts = copied
    with client_of(f"sqlite:///{settings.base}/mlflow.db") as mlflow:
        client = mlflow.MlflowClient()
        client.create_registered_model("old")
        client.create_model_version("old", str(artifacts))
    pin = source.resolve("models:/old/latest", settings)
    assert pin == Pin("mlflow", "models:/old/1", {"name": "old", "version": "1"})
    assert "data/model.pt2" in fetched(pin, settings, tmp_path / "out")


def test_deleted_runs_failed_versions_and_names_used_twice(copied: tuple[Settings, Path], registry: Registry) -> None:
    settings, _ = copied
    database = settings.base / "mlflow.db"
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE logged_models SET name = 'pt2' WHERE model_id = ?", (registry.pickled,))
        connection.execute("UPDATE model_versions SET status = 'FAILED_REGISTRATION' WHERE version = 3")
    twice = refusal(f"runs:/{registry.run}/pt2", settings)
    assert twice.message == f"run `{registry.run}` logged 2 models named `pt2`"
    assert f"`models:/{registry.pickled}`" in str(twice.hint)
    failed = refusal("models:/digits/3", settings)
    assert failed.message == "`models:/digits/3` is not ready: its status is `FAILED_REGISTRATION`"
    with client_of(f"sqlite:///{database}") as mlflow:
        mlflow.MlflowClient().delete_run(registry.run)
    assert refusal(f"runs:/{registry.run}/notes", settings).message == f"run `{registry.run}` is deleted"


def test_the_database_is_never_created(tmp_path: Path) -> None:
    error = refusal("models:/digits@champion", Settings(tmp_path))
    assert (error.code, error.message) == (3, "registry database `mlflow.db` does not exist")
    assert "MLFLOW_TRACKING_URI" in str(error.hint)
    assert list(tmp_path.iterdir()) == []


def test_a_relative_database_is_relative_to_the_recipe(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (registry.base / "recipes").mkdir()
    settings = Settings(registry.base / "recipes", tracking="sqlite:///../mlflow.db")
    assert source.resolve("models:/digits/1", settings).details["version"] == "1"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "registry database `mlflow.db` is not an SQLite database"),
        (b"just text", "registry database `mlflow.db` is not an SQLite database"),
        (b"SQLite format 3\0" + bytes(4096), "registry database `mlflow.db` is not one of MLflow: "),
    ],
)
def test_what_is_no_database(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(content)
    assert refusal("models:/digits/1", Settings(tmp_path)).message.startswith(message)


def test_a_damaged_database(copied: tuple[Settings, Path]) -> None:
    settings, _ = copied
    path = settings.base / "mlflow.db"
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + os.urandom(len(whole) - 4096))
    assert refusal("models:/digits/1", settings).code == 3


def test_another_schema_is_neither_used_nor_migrated(copied: tuple[Settings, Path]) -> None:
    settings, _ = copied
    with contextlib.closing(sqlite3.connect(settings.base / "mlflow.db")) as database, database:
        database.execute("DROP TABLE logged_model_params")  # MLflow migrates a database that lacks tables unasked
        database.execute("UPDATE alembic_version SET version_num = '0123456789ab'")
    before = state(settings.base)
    error = refusal("models:/digits/1", settings)
    assert error.message.startswith("registry database `mlflow.db` has another schema: expected ")
    assert error.message.endswith("got 0123456789ab")
    assert state(settings.base) == before


def test_a_database_of_something_else(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute("CREATE TABLE cats (name TEXT)")
    message = refusal("models:/digits/1", Settings(tmp_path)).message
    assert message == (
        "registry database `mlflow.db` is not one of MLflow: (sqlite3.OperationalError) no such table: alembic_version"
    )


def test_without_mlflow_the_remedy_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingToolError) as caught:
        source.resolve("models:/digits/1", Settings(tmp_path))
    assert caught.value.hint == 'pip install "model-packager[mlflow]"'


@pytest.mark.parametrize(
    "tracking", ["ftp://host/x", "databricks-uc", "sqlite://", "postgresql://ada:secret@127.0.0.1:1/db"]
)
def test_addresses_that_lead_nowhere(tracking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal("models:/digits/1", Settings(tmp_path, tracking=tracking, timeout=1)).code == 3
    assert list(tmp_path.iterdir()) == []


def test_it_is_the_source_of_its_references() -> None:
    assert sources.load_for("models:/digits/1") is source
    assert source.EXTRA == "mlflow"

# SPDX-License-Identifier: Apache-2.0
"""A directory as a source, and what every source has in common."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from packager import sources
from packager.errors import IntegrityError, PackagerError, SourceError, UsageError
from packager.events import Event, Progress, ignore
from packager.files import CHUNK
from packager.sources import Pin, Settings, directory
from packager.types import Blob, Tree

REFERENCES = {
    "mlflow": [
        "models:/digits@champion",
        "models:/digits/3",
        "runs:/0123/model",
        "mlflow-artifacts:/1/abc/artifacts/m",
    ],
    "directory": ["model", "./model", "../model/", "/models/digits", "file:///models/digits", "model.v2", "models"],
    "file": ["model.onnx", "./a/b.pt2", "/models/MODEL.ONNX", "file:///models/m.onnx"],
}


@pytest.mark.parametrize(("kind", "ref"), [(kind, ref) for kind, refs in REFERENCES.items() for ref in refs])
def test_exactly_one_source_reads_a_reference(kind: str, ref: str) -> None:
    assert sources.load_for(ref) is sources.load(kind)


@pytest.mark.parametrize("ref", ["", "memory://bucket/model", "https://ada:secret@host/m.onnx?key=1", "hf:org/model"])
def test_an_unknown_form_is_refused_without_its_secrets(ref: str) -> None:
    with pytest.raises(UsageError) as caught:
        sources.load_for(ref)
    assert caught.value.message == f"source `{sources.redact_address(ref)}` has an unknown form"
    assert "secret" not in caught.value.message
    assert "key" not in caught.value.message
    assert "models:/name@alias" in str(caught.value.hint)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    model = tmp_path / "project" / "model"
    (model / "data").mkdir(parents=True)
    (model / "MLmodel").write_text("flavors: {}\n")
    (model / "data" / "model.bin").write_bytes(bytes(3_000_000))
    (model / "registered_model_meta").write_text("model_name: digits\n")
    (model / ".git").mkdir()
    (model / ".git" / "HEAD").write_text("ref\n")
    return tmp_path / "project"


def fetched(ref: str, project: Path, out: Path) -> list[str]:
    settings = Settings(project, ref)
    pin = directory.resolve(ref, settings)
    out.mkdir()
    directory.fetch(pin, settings, out, ignore)
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def test_files_arrive_without_history_and_notes(project: Path, tmp_path: Path) -> None:
    assert fetched("model", project, tmp_path / "out") == ["MLmodel", "data/model.bin"]
    assert (tmp_path / "out" / "data" / "model.bin").read_bytes() == bytes(3_000_000)


@pytest.mark.parametrize("form", ["./model", "model/", "{}/model", "file://{}/model", "file://localhost{}/model"])
def test_every_form_gives_the_same_pin(form: str, project: Path) -> None:
    assert directory.resolve(form.format(project), Settings(project)) == directory.resolve("model", Settings(project))


def test_a_pin_says_what_and_not_where(project: Path) -> None:
    pin = directory.resolve("model", Settings(project))
    tree = Tree.from_json(pin.details["files"])
    assert pin.uri == f"directory:{tree.digest}"
    assert str(project) not in str(pin.to_json())
    assert Pin.from_json(pin.to_json()) == pin


def test_time_and_mode_do_not_matter(project: Path) -> None:
    before = directory.resolve("model", Settings(project))
    os.utime(project / "model" / "MLmodel", (1, 1))
    (project / "model" / "MLmodel").chmod(0o600)
    (project / "model" / "data" / "empty").mkdir()
    assert directory.resolve("model", Settings(project)) == before


def test_what_changed_since_it_was_pinned_is_named(project: Path, tmp_path: Path) -> None:
    settings = Settings(project, "model")
    pin = directory.resolve("model", settings)
    with (project / "model" / "data" / "model.bin").open("r+b") as file:
        file.write(b"x")
    assert directory.resolve("model", settings) != pin
    with pytest.raises(SourceError, match=r"`data/model\.bin` is not what the lock pinned"):
        directory.fetch(pin, settings, tmp_path, ignore)
    (project / "model" / "extra").write_text("x")
    with pytest.raises(SourceError, match="`extra` is not what the lock pinned"):
        directory.fetch(pin, settings, tmp_path / "other", ignore)


def test_the_caller_may_remember_digests(project: Path) -> None:
    asked: list[str] = []

    def remember(path: Path) -> Blob:
        asked.append(path.name)
        return sources.blob_of(path)

    directory.resolve("model", Settings(project, blob_of=remember))
    assert asked == ["MLmodel", "model.bin"]


def test_progress_is_reported_in_bytes(project: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    settings = Settings(project, "model")
    directory.fetch(directory.resolve("model", settings), settings, tmp_path, events.append)
    assert events[-1] == Progress("data/model.bin", 3_000_000, 3_000_000)
    done = [event.done for event in events if isinstance(event, Progress)][1:]
    assert done == [*range(CHUNK, 3_000_000, CHUNK), 3_000_000]


def refusal(ref: str, project: Path) -> PackagerError:
    with pytest.raises(PackagerError) as caught:
        directory.resolve(ref, Settings(project))
    assert str(project) not in caught.value.message
    return caught.value


def test_a_link_inside_is_refused(project: Path) -> None:
    (project / "secret").write_text("s")
    (project / "model" / "data" / "link.bin").symlink_to(project / "secret")
    error = refusal("model", project)
    assert isinstance(error, SourceError)
    assert error.message == "source file `data/link.bin` is a symbolic link"


def test_symlinked_directory_is_refused_unless_named_by_recipe(project: Path) -> None:
    (project / "latest").symlink_to("model")
    assert directory.resolve("latest", Settings(project)) == directory.resolve("model", Settings(project))
    (project / "model" / "up").symlink_to(project)
    assert refusal("model", project).message == "source file `up` is a symbolic link"


def test_special_files_are_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(project / "model" / "pipe")
    assert refusal("model", project).message == "source file `pipe` is not a regular file"
    (project / "model" / "pipe").unlink()
    monkeypatch.chdir(project)  # socket paths are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("model/socket")
        assert refusal("model", project).message == "source file `socket` is not a regular file"


@pytest.mark.parametrize("name", ["a\\b", "con.txt", "tail.", "a\u202eb", "new\nline"])
def test_names_that_are_not_portable_are_refused(name: str, project: Path) -> None:
    (project / "model" / name).write_text("x")
    assert isinstance(refusal("model", project), IntegrityError)


def test_names_that_collide_elsewhere_are_refused(project: Path) -> None:
    (project / "model" / "mlmodel").write_text("x")
    assert "collides" in refusal("model", project).message


def test_what_is_not_there(project: Path) -> None:
    missing = refusal("digits", project)
    assert missing.code == 3
    assert missing.message == "directory `digits` does not exist"
    assert missing.hint == "a registered model is written `models:/name@alias`"
    (project / "empty").mkdir()
    assert refusal("empty", project).message == "`empty` holds no files"


def test_a_file_of_any_ending_is_a_directory_of_itself(project: Path, tmp_path: Path) -> None:
    (project / "regression.sav").write_bytes(b"x")
    assert fetched("regression.sav", project, tmp_path / "out") == ["regression.sav"]
    (project / "link.sav").symlink_to("regression.sav")
    assert refusal("link.sav", project).message == "`link.sav` is a symbolic link"
    os.mkfifo(project / "pipe.sav")
    assert refusal("pipe.sav", project).message == "`pipe.sav` is neither a directory nor a regular file"


@pytest.mark.parametrize("ref", [".", "..", "./"])
def test_a_source_around_its_recipe_is_refused(ref: str, project: Path) -> None:
    assert refusal(ref, project).message == f"source `{ref}` contains the recipe itself"


def test_an_unreadable_file_is_the_fault_of_the_source(project: Path) -> None:
    def unreadable(path: Path) -> Blob:
        raise PermissionError(13, "Permission denied", str(path))

    with pytest.raises(SourceError) as caught:
        directory.resolve("model", Settings(project, blob_of=unreadable))
    assert caught.value.message == "`MLmodel` cannot be read: Permission denied"


def test_fetch_needs_the_address_of_a_pin(project: Path, tmp_path: Path) -> None:
    pin = directory.resolve("model", Settings(project))
    with pytest.raises(SourceError, match="does not exist"):
        directory.fetch(pin, Settings(project), tmp_path, ignore)

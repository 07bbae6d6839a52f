# SPDX-License-Identifier: Apache-2.0
"""A rendered model into an MLflow registry: logged in the experiment of its source, then registered as a version.

Tags name the bundle, its knobs, and the source that it was made of. The version is written last, so that what is
registered is complete. The same bundle with the same knobs is registered once.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packager import canonical
from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.deploy.renderers._deployment import RECORD
from packager.errors import PackagerError, SourceError, UsageError
from packager.files import read_own
from packager.sources import Settings
from packager.sources import _mlflow as connection

_PATIENCE = 6  # timeouts for one file: a server may have to write it to remote storage
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_BUNDLE, _KNOBS = "packager.bundle", "packager.knobs"
_MODEL = "packager.model"  # the logged model: MLflow's SQL store takes a version's `model_id` and does not keep it


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """One version in a registry: the name of the model, its version, the logged model, and whether it is new."""

    name: str
    version: str
    model: str
    created: bool


def register(
    bundle: Bundle, folder: Path, name: str, settings: Settings, source: Mapping[str, JSON]
) -> RegisteredModel:
    """Register what `render mlflow` wrote to `folder` from `bundle` as a version of the model `name`.

    `source` is what the bundle was made of, as `packager.release.proofs.find_origin` says it.

    Raises UsageError for a folder of another bundle or the name of the source, SourceError.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"`{name:.80}` is not the name of a model", hint="write letters, digits, `.`, `_` and `-`")
    record = _read_record(folder, bundle)
    if name == source["name"]:
        raise UsageError(
            f"`{name}` is the model that the bundle was made of",
            hint="choose another name: its aliases and `latest` are what the next build reads",
        )
    tags = _tags(bundle, record, source)
    with connection.connect(settings, settings.timeout * _PATIENCE, writable=True) as registry:
        client = registry.client
        found = _find(client, name, tags)
        if found is not None:
            return RegisteredModel(name, str(found.version), found.tags[_MODEL], created=False)
        with _current(registry.tracking):
            return _add(client, folder, name, tags, _experiment(client, source["uri"]))


def _read_record(folder: Path, bundle: Bundle) -> Mapping[str, JSON]:
    """Return the record of a rendering, after its files were compared with it."""
    try:
        record: Mapping[str, JSON] = canonical.load(read_own(folder / RECORD, 1 << 20), limit=1 << 20)
        ours = (record["kind"], record["bundle"]) == ("mlflow", bundle.digest)
        importlib.import_module("packager.templates.deployed").read(folder)
    except (OSError, ValueError, KeyError, TypeError, PackagerError) as error:
        raise UsageError(f"`{folder}` is no rendered model of MLflow: {error}", hint="render it again") from None
    if not ours:
        raise UsageError(f"`{folder}` is not of this bundle", hint="render it again")
    return record


def _tags(bundle: Bundle, record: Mapping[str, JSON], source: JSON) -> dict[str, str]:
    tags = {
        _BUNDLE: bundle.digest,
        _KNOBS: str(record["knobs"]),
        "packager.name": bundle.name,
        "packager.version": bundle.version,
        "packager.source": source["uri"],
        "packager.source.digest": source["tree"],
        "packager.source.reference": source["reference"],
        "packager.source.version": source["version"],
    }
    return {key: str(value) for key, value in tags.items() if value is not None}


def _find(client: Any, name: str, tags: Mapping[str, str]) -> Any:
    """Return the version that was registered of this bundle with these knobs, or None."""
    for version in client.search_model_versions(_named(name)):
        if _MODEL in version.tags and all(version.tags.get(key) == tags[key] for key in (_BUNDLE, _KNOBS)):
            return version
    return None


def _experiment(client: Any, uri: JSON) -> str:
    """Return the experiment of the source, or MLflow's own where the source is not of this registry."""
    model = str(uri or "").removeprefix("models:/").partition("/")[0]
    if not str(uri or "").startswith("models:/m-"):
        return "0"
    try:
        return str(connection.ask(lambda: client.get_logged_model(model), lambda: SourceError(model)).experiment_id)
    except SourceError:
        return "0"


def _add(client: Any, folder: Path, name: str, tags: Mapping[str, str], experiment: str) -> RegisteredModel:
    logged = client.create_logged_model(experiment, name=tags["packager.name"], tags=dict(tags))
    model = str(logged.model_id)
    try:
        client.log_model_artifacts(model, str(folder))
        client.finalize_logged_model(model, "READY")
    except BaseException:
        client.finalize_logged_model(model, "FAILED")
        raise
    if not client.search_registered_models(_named(name)):
        client.create_registered_model(name)
    known = {**tags, _MODEL: model}
    version = client.create_model_version(name, str(logged.artifact_location), tags=known, model_id=model)
    return RegisteredModel(name, str(version.version), model, created=True)


@contextlib.contextmanager
def _current(tracking: str) -> Iterator[None]:
    """Make a server the current one of MLflow, whose stores ask that one for a logged model, and put back what was."""
    mlflow = importlib.import_module("mlflow")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tracking)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


def _named(name: str) -> str:
    return f"name = '{name}'"

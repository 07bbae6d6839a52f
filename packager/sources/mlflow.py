# SPDX-License-Identifier: Apache-2.0
"""Models in an MLflow registry or run: `models:/name@alias`, `models:/name/3`, `models:/m-<id>`, `runs:/<id>/<path>`.

With `registry: databricks` or `databricks-uc` (names are then `catalog.schema.model`) MLflow's client speaks to
Databricks, with the host and token that Databricks' own configuration holds.

Aliases and `latest` are resolved once; the pin names the logged model (`models:/m-<id>`), whose files MLflow does not
change. Models registered before MLflow 3 are pinned by version, artifacts that are no model by run or address; what
those hold may be overwritten, so it is the digest of the fetched tree, not such a pin, that a lock can rely on.

A local database is opened read-only: it is never created, never migrated, and one of another schema is an error.
MLflow's own client does the talking and gets the address through its arguments. User, password, token and certificates
of a server are read by MLflow from its usual `MLFLOW_TRACKING_…` variables; they appear in no message and no pin.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from packager.errors import IntegrityError, SourceError, UsageError, did_you_mean
from packager.events import OnEvent, Progress
from packager.sources import IGNORED, Pin, Settings, clone_file, local_path, redact_address, regular_files
from packager.sources._mlflow import Registry, as_source_error, ask, connect, open_database
from packager.sources._mlflow_sqlite import UnansweredError
from packager.types import check_path, check_paths

EXTRA: str | None = "mlflow"

_MODEL_ID = re.compile(r"m-\w{8,64}")
_FORMS = "write `models:/name@alias`, `models:/name/3`, `models:/name/latest` or `models:/m-<id>`"
_SCRATCH = ".mlflow-download"
_PATIENCE = 6  # timeouts until the first byte of a file: a server may have to bring it from remote storage first
_ABOUT = ("MLmodel", "requirements.txt", "python_env.yaml", "conda.yaml")
_BRIEF = 16 << 20  # bytes of a file that is about a model
_MOST_FILES, _DEEPEST = 100_000, 32


def matches(ref: str) -> bool:
    """True for the addresses that MLflow itself understands."""
    return ref.startswith(("models:/", "runs:/", "mlflow-artifacts:/"))


def resolve(ref: str, settings: Settings) -> Pin:
    """Look the reference up in the registry, once."""
    with contextlib.suppress(UnansweredError), open_database(settings) as registry:
        return _resolve(registry, ref)
    with connect(settings, settings.timeout) as registry:
        return _resolve(registry, ref)


def _resolve(registry: Registry, ref: str) -> Pin:
    if ref.startswith("models:/"):
        return _resolve_model(registry, ref.removeprefix("models:/"))
    if ref.startswith("runs:/"):
        return _resolve_run(registry, ref.removeprefix("runs:/"))
    return Pin("mlflow", redact_address(ref).rstrip("/"))


def fetch(pin: Pin, settings: Settings, out: Path, on_event: OnEvent) -> None:
    """Copy or download the files of the pinned model."""
    if (found := _find_here(pin, settings)) is not None:
        registry, path, inner = found
        _copy(registry, path, inner, out, on_event)
        return
    with connect(settings, settings.timeout * _PATIENCE) as registry:
        location, inner = _location(registry, pin.uri)
        local = _local(location, settings)
        if local is None:
            _download(registry, location, inner, out, on_event)
        else:
            _copy(registry, local, inner, out, on_event)


def list_files(ref: str, settings: Settings, out: Path) -> Mapping[str, Path | None]:
    """Return the paths of a model's files, and where those lie that can be read without downloading the model.

    On this machine that is all of them; of a server, what MLflow says about the model is written below `out`.
    """
    pin = resolve(ref, settings)
    if (found := _find_here(pin, settings)) is not None:
        return _files_at(found[1] / found[2])
    with connect(settings, settings.timeout) as registry:
        location, inner = _location(registry, pin.uri)
        local = _local(location, settings)
        return _small(registry, location, inner, out) if local is None else _files_at(local / inner)


def _find_here(pin: Pin, settings: Settings) -> tuple[Registry, Path, str] | None:
    """Return the directory of this machine with the files of a pin, and the path in there, where that is plain."""
    with contextlib.suppress(UnansweredError), open_database(settings) as registry:
        location, inner = _location(registry, pin.uri)
        if (path := _local(location, settings)) is not None:
            return registry, path, inner
    return None


def _files_at(path: Path) -> dict[str, Path | None]:
    return {path.name: path} if path.is_file() else dict(regular_files(path))


def _small(registry: Registry, location: str, inner: str, out: Path) -> dict[str, Path | None]:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    prefix = f"{inner}/" if inner else ""
    with as_source_error(registry.name, Exception):
        repository = get_artifact_repository(location, registry.tracking, registry.address)
        sizes = dict(_listing(repository, inner, _DEEPEST))
        check_paths(sizes)
        wanted = [path for path, size in sizes.items() if path.removeprefix(prefix) in _ABOUT and (size or 0) < _BRIEF]
        for path in wanted:
            repository.download_artifacts(path, dst_path=str(out))
    return {path.removeprefix(prefix): out / path if path in wanted else None for path in sizes}


# From references to pins


def _resolve_model(registry: Registry, body: str) -> Pin:
    name, slash, suffix = body.partition("/")
    if not slash and _MODEL_ID.fullmatch(name):
        return _pin_logged(registry, name, {})
    if not slash and "@" in name:
        name, _, alias = name.rpartition("@")
        return _pin_version(registry, _aliased(registry, name, alias))
    if suffix.isascii() and suffix.isdigit():
        return _pin_version(registry, _numbered(registry, name, suffix))
    if suffix.lower() == "latest":
        return _pin_version(registry, _latest(registry, name))
    if "/" in suffix:
        problem = "has too many parts"
    else:
        problem = "names a stage, which is no longer supported" if suffix else "names no version"
    raise UsageError(f"source `models:/{body:.80}` {problem}", hint=_FORMS)


def _aliased(registry: Registry, name: str, alias: str) -> Any:
    return ask(
        lambda: registry.client.get_model_version_by_alias(name, alias), lambda: _no_alias(registry, name, alias)
    )


def _numbered(registry: Registry, name: str, number: str) -> Any:
    return ask(lambda: registry.client.get_model_version(name, number), lambda: _no_version(registry, name, number))


def _latest(registry: Registry, name: str) -> Any:
    found = _versions(registry, name)
    if not found:
        raise _no_version(registry, name, "latest")
    return found[-1]


def _versions(registry: Registry, name: str) -> list[Any]:
    """Return the versions of a model, oldest first."""
    found = ask(
        lambda: registry.client.search_model_versions(f"name = {_literal(name)}"), lambda: _no_model(registry, name)
    )
    return sorted(found, key=lambda version: int(version.version))


def _pin_version(registry: Registry, version: Any) -> Pin:
    label = f"{version.name}/{version.version}"
    if version.status != "READY":
        raise SourceError(f"`models:/{label}` is not ready: its status is `{version.status}`")
    details = {"name": version.name, "version": str(version.version), "run_id": version.run_id}
    # `model_id` is empty for versions that `log_model` registered; there the source names it.
    logged = re.fullmatch(r"models:/(m-\w+)", version.source or "")
    if model_id := version.model_id or (logged and logged[1]):
        return _pin_logged(registry, model_id, details)
    return Pin("mlflow", f"models:/{label}", _filled(details))


def _pin_logged(registry: Registry, model_id: str, details: Mapping[str, str], inner: str = "") -> Pin:
    model = ask(
        lambda: registry.client.get_logged_model(model_id),
        lambda: SourceError(f"the registry has no model `models:/{model_id}`", hint=_FORMS),
    )
    if str(model.status) != "READY":
        raise SourceError(f"`models:/{model_id}` is not ready: its status is `{model.status}`")
    uri = f"models:/{model_id}/{inner}".rstrip("/")
    return Pin("mlflow", uri, _filled({"run_id": model.source_run_id, **details, "model_id": model_id}))


def _filled(details: Mapping[str, str | None]) -> dict[str, str]:
    return {key: value for key, value in sorted(details.items()) if value}


def _resolve_run(registry: Registry, body: str) -> Pin:
    run_id, _, path = body.rstrip("/").partition("/")
    if not path:
        raise UsageError(f"source `runs:/{body:.80}` names no artifact", hint="write `runs:/<run id>/<path>`")
    with _refused(f"runs:/{body}"):
        check_path(path)
    run = ask(lambda: registry.client.get_run(run_id), lambda: _no_run(run_id))
    if run.info.lifecycle_stage != "active":
        raise SourceError(f"run `{run_id}` is deleted", hint=f"restore it: `mlflow runs restore --run-id {run_id}`")
    name, _, inner = path.partition("/")
    logged = _logged_by(registry, run, name)
    if len(logged) > 1:
        choice = ", ".join(f"`models:/{model_id}`" for model_id in logged)
        raise SourceError(f"run `{run_id}` logged {len(logged)} models named `{name}`", hint=f"choose one of {choice}")
    if logged:
        return _pin_logged(registry, logged[0], {}, inner)
    return Pin("mlflow", f"runs:/{run_id}/{path}", {"run_id": run_id})


def _logged_by(registry: Registry, run: Any, name: str) -> list[str]:
    """Return the ids of the models that a run logged under `name`: MLflow 3 keeps them beside the run, not in it."""
    found: list[str] = []
    token = None
    while token != "":
        page = registry.client.search_logged_models(
            [run.info.experiment_id], f"name = {_literal(name)}", page_token=token
        )
        found += [model.model_id for model in page if model.source_run_id == run.info.run_id]
        token = page.token or ""
    return sorted(found)


def _literal(text: str) -> str:
    """Quote `text` for MLflow's filter language, which has no escapes."""
    if "'" in text and '"' in text:
        raise UsageError(f"name `{text:.80}` holds both kinds of quotes", hint="address the model as `models:/m-<id>`")
    return f'"{text}"' if "'" in text else f"'{text}'"


# What is not there


def _no_model(registry: Registry, name: str) -> SourceError:
    known = [model.name for model in registry.client.search_registered_models(max_results=100)]
    hint = did_you_mean(name, known) if known else f"registry `{registry.name}` is empty; is it the right one?"
    return SourceError(f"the registry has no model `{name:.80}`", hint=hint)


def _no_alias(registry: Registry, name: str, alias: str) -> SourceError:
    model = ask(lambda: registry.client.get_registered_model(name), lambda: _no_model(registry, name))
    hint = did_you_mean(alias, model.aliases) if model.aliases else f"it has none; write `models:/{name}/latest`"
    return SourceError(f"model `{name:.80}` has no alias `{alias:.80}`", hint=hint)


def _no_version(registry: Registry, name: str, number: str) -> SourceError:
    ask(lambda: registry.client.get_registered_model(name), lambda: _no_model(registry, name))
    known = [str(version.version) for version in _versions(registry, name)]
    hint = f"it has {', '.join(known[-20:])}" if known else "it has none"
    return SourceError(f"model `{name:.80}` has no version `{number:.80}`", hint=hint)


# From pins to files


def _location(registry: Registry, uri: str) -> tuple[str, str]:
    """Return where MLflow keeps the files of a pin, and the path of the artifact in there."""
    client = registry.client
    scheme, _, body = uri.partition(":/")
    gone = SourceError(f"`{uri}` is no longer in registry `{registry.name}`")
    first, _, rest = body.partition("/")
    if scheme == "models" and _MODEL_ID.fullmatch(first):
        return str(ask(lambda: client.get_logged_model(first), lambda: gone).artifact_location), rest
    if scheme == "models" and registry.is_catalog:
        return uri, ""
    if scheme == "models":
        return str(ask(lambda: client.get_model_version_download_uri(first, rest), lambda: gone)), ""
    if scheme == "runs":
        return str(ask(lambda: client.get_run(first), lambda: gone).info.artifact_uri), rest
    root, _, name = uri.rpartition("/")
    return root, name


def _local(location: str, settings: Settings) -> Path | None:
    """Return the directory of this machine that MLflow means by `location`, or None if it is elsewhere."""
    if local_path(location, settings.base) is None:
        return None
    path = urlparse(location).path if location.startswith("file:") else location
    return settings.base / url2pathname(path)  # as MLflow does, which decodes `%20` in plain paths too


def _copy(registry: Registry, root: Path, inner: str, out: Path, on_event: OnEvent) -> None:
    """Copy artifacts that lie in a directory of this machine."""
    path = root / inner
    remote = registry.address.startswith(("http:", "https:"))
    if not path.exists() or not path.resolve().is_relative_to(root.resolve()):
        hint = "start the server with `--serve-artifacts`" if remote else "were they deleted, or logged elsewhere?"
        raise SourceError(f"the artifacts of `{root.parent.name}` are not on this machine", hint=hint)
    # A server must not be able to name just any directory of this machine.
    if remote and not (root / "MLmodel").is_file():
        raise SourceError(f"server `{registry.name}` names a local directory that is no model")
    files = {path.name: path} if path.is_file() else regular_files(path)
    check_paths(files)
    for name, file in files.items():
        clone_file(file, out, name, on_event)


def _download(registry: Registry, location: str, inner: str, out: Path, on_event: OnEvent) -> None:
    """Download artifacts from a server or object store; what arrives is what the listing promised."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    scratch = out / _SCRATCH
    with as_source_error(
        registry.name, Exception
    ):  # the stores below MLflow (requests, boto3, …) share no type of error
        repository = get_artifact_repository(location, registry.tracking, registry.address)
        listed = dict(_listing(repository, inner, _DEEPEST)) or ({inner: None} if inner else {})
        promised = {path: size for path, size in listed.items() if IGNORED.isdisjoint(path.split("/"))}
        if not promised:
            raise SourceError(f"registry `{registry.name}` holds no files of that model", hint="were they deleted?")
        check_paths(promised)
        total = sum(size or 0 for size in promised.values())
        on_event(Progress("model", 0, total))
        scratch.mkdir()
        repository.download_artifacts(inner, dst_path=str(scratch))
        on_event(Progress("model", total, total))
    _settle(scratch, inner, promised, out)


def _listing(repository: Any, path: str, depth: int) -> Iterator[tuple[str, int | None]]:
    """Yield (path, size) of every file at or below `path`; nothing for a path that is a file itself."""
    for count, entry in enumerate(repository.list_artifacts(path or None)):
        if depth == 0 or count > _MOST_FILES:
            raise SourceError(f"expected at most {_MOST_FILES} files in {_DEEPEST} levels, got more")
        if entry.is_dir and entry.path not in (path, "."):
            yield from _listing(repository, entry.path, depth - 1)
        elif not entry.is_dir:
            yield entry.path, entry.file_size


def _settle(scratch: Path, inner: str, promised: Mapping[str, int | None], out: Path) -> None:
    """Check a download against its listing and move it to its place."""
    files = regular_files(scratch)
    for name, size in promised.items():
        got = files[name].stat().st_size if name in files else None
        if got is None or size not in (got, None):
            raise SourceError(f"`{name}` is incomplete: expected {size} bytes, got {got}")
    for name, file in files.items():
        target = out / (Path(name).name if name == inner else name.removeprefix(f"{inner}/"))
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    shutil.rmtree(scratch)


@contextlib.contextmanager
def _refused(ref: str) -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        raise UsageError(f"source `{ref:.80}` names an impossible path: {error.message}") from error


def _no_run(run_id: str) -> SourceError:
    hint = "compare `registry` in the recipe, or MLFLOW_TRACKING_URI, with where the run was logged"
    return SourceError(f"the registry has no run `{run_id:.80}`", hint=hint)

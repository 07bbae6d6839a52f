# SPDX-License-Identifier: Apache-2.0
"""Add models and ensembles to a repository of a Triton server, and say what is served.

A version lies complete beside what is served; `config.pbtxt` says which one is, and is replaced last. A kill leaves the
version before in service and, at most, what nothing refers to. Ensembles take whatever version of a step is served: a
version that one of them cannot take is refused, and with one that fits their records change as well.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeAlias

from packager import canonical
from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.deploy.renderers import ensemble, triton
from packager.deploy.renderers._modelconfig import Rendered
from packager.deploy.renderers.ensemble import Served
from packager.deploy.renderers.triton import Backend
from packager.deploy.triton.pipeline import Pipeline
from packager.deploy.triton.repository import CONFIG, RECORD, SITES, WARMUP, Content, Repository, Signed
from packager.errors import MalformedError, SourceError, UsageError, did_you_mean, install
from packager.events import Note, OnEvent, ignore
from packager.knobs.knobs import Resolved

CANDIDATE = "__candidate"  # the end of a name; no bundle can be called so: names have no two underscores in a row
_LIMIT = 16 << 20
_VERSION = re.compile(rb"(?m)^    versions: ([0-9]{1,9})$")  # as we write them
_BATCH = re.compile(rb"(?m)^max_batch_size: ([0-9]{1,9})$")
_KNOBS = re.compile(rb'(?m)^  key: "knobs"\n  value: "(sha256:[0-9a-f]{64})"$')


Seen: TypeAlias = tuple[bytes | None, str | None]  # a configuration and its state


@dataclass(frozen=True, slots=True)
class Change:
    """What makes a version the served one: a configuration, what was there before, and the state it was read in."""

    model: str
    number: int
    config: bytes
    previous: bytes | None
    state: str | None
    sites: Mapping[str, bytes] = field(default_factory=dict)  # their configurations, by path

    @property
    def path(self) -> str:
        return f"{self.model}/{CONFIG}"


@dataclass(frozen=True, slots=True)
class Model:
    """A rendered version in a repository. `before` is the version that config.pbtxt named until then, or None.

    `changes` put it in service, in this order: it and the ensembles it is a step of.
    """

    repository: Repository
    name: str
    number: int
    before: int | None
    created: bool
    target: str
    changes: tuple[Change, ...]

    @property
    def place(self) -> str:
        """The repository, as messages call it: a directory, or the address of a folder."""
        return self.repository.label

    @property
    def ensembles(self) -> dict[str, int]:
        """The versions of the ensembles that it is a step of and that changed with it, by name."""
        return {change.model: change.number for change in self.changes if change.model != self.name}


class TritonDeployment(NamedTuple):
    """A bundle as a version of a model, and the knobs that its configuration holds."""

    model: Model
    knobs: Resolved


def render_triton(
    bundle: Bundle,
    values: Resolved,
    repository: Repository,
    backend: Backend,
    sites: Mapping[str, Resolved],
    on_event: OnEvent = ignore,
    *,
    switch: bool = True,
    raw: bool = False,
) -> Model:
    """Add `bundle`, which the caller has verified, to a model repository and return the version it became.

    `values` are the knobs of config.pbtxt, `sites` those of configs/<site>.pbtxt. The same bundle with the same knobs
    and backend is the version it was before. With `raw` it takes rows as people have them. Without `switch`
    config.pbtxt stays what it was, and `apply` of each change switches. Raises UsageError, IntegrityError,
    StorageError, SourceError.
    """
    name = bundle.name
    _check_kind(repository, name, is_ensemble=False)
    before, seen = find_active(repository, name), repository.current(f"{name}/{CONFIG}")
    ensembles = _ensembles_with(repository, name)
    fitted: dict[str, JSON] = {}

    def make(number: int) -> Rendered:
        rendered = triton.render(bundle, values, number, backend, sites, raw=raw)
        for pipeline, _ in ensembles:  # before anything is written
            fitted[pipeline.name] = _fitted(repository, pipeline, rendered, number)
        return rendered

    number, created, rendered = _placed(
        repository, bundle, triton.build_record(bundle, values, backend, raw=raw), make, on_event
    )
    own = _change(rendered, number, seen)
    others = [
        _placed_ensemble(repository, pipeline, fitted[pipeline.name], state, on_event)[0]
        for pipeline, state in ensembles
    ]
    early = [change for change in others if _shrinks(change)]
    changes = (*early, own, *(change for change in others if change not in early))
    model = Model(repository, name, number, before, created, rendered.record["targets"][0], changes)
    if switch:
        publish(model)
    return model


def render_ensemble(pipeline: Pipeline, repository: Repository, on_event: OnEvent = ignore) -> Model:
    """Add a pipeline over models of the repository, checked against the versions that are served there.

    The same pipeline over the same versions is the version it was before. Raises UsageError, StorageError, SourceError.
    """
    _check_kind(repository, pipeline.name, is_ensemble=True)
    before, seen = find_active(repository, pipeline.name), repository.current(f"{pipeline.name}/{CONFIG}")
    about = _fitted(repository, pipeline, None, 0)
    change, created = _placed_ensemble(repository, pipeline, about, seen, on_event)
    model = Model(repository, pipeline.name, change.number, before, created, "", (change,))
    publish(model)
    return model


def _check_kind(repository: Repository, name: str, *, is_ensemble: bool) -> None:
    """Raise UsageError if the name is that of a model and an ensemble is to be written, or the other way round."""
    numbers = repository.versions(name)
    if not numbers and not (is_ensemble and repository.read(f"{name}/{CONFIG}")):
        return
    found = _record(repository, name, numbers[-1]) if numbers else {}
    if is_ensemble != (found.get("kind") == ensemble.KIND):
        what = "a model" if is_ensemble else "an ensemble"
        raise UsageError(f"`{name}` is {what} in `{repository.label}`", hint="give one of the two another name")


# writing versions


def _placed(
    repository: Repository, bundle: Bundle | None, identity: JSON, make: Callable[[int], Rendered], on_event: OnEvent
) -> tuple[int, bool, Rendered]:
    """Return number, whether it is new, and files of the version with this identity; write it if there is none."""
    name = identity["name"]
    known = _known(repository, name, identity)
    number = known or max([0, *repository.versions(name)]) + 1
    while True:
        rendered = make(number)
        for path, data in rendered.made.items():
            if path.endswith(".pbtxt"):
                _check_config(data, path, on_event)
        for path, data in rendered.made.items():
            if path.startswith(f"{WARMUP}/"):  # what a configuration refers to is there before it
                repository.write(f"{name}/{path}", data)
        if known or repository.add(name, number, _contents(rendered, bundle, f"{number}/")):
            return number, not known, rendered
        number += 1  # another writer took it meanwhile


def _contents(rendered: Rendered, bundle: Bundle | None, own: str) -> dict[str, Content]:
    files: dict[str, Content] = {
        path.removeprefix(own): data for path, data in rendered.made.items() if path.startswith(own)
    }
    if bundle is not None:
        for path, (origin, blob) in rendered.copied.items():
            files[path.removeprefix(own)] = Signed(origin, blob, partial(bundle.medium.open_file, origin, blob))
    return files


def _known(repository: Repository, name: str, identity: JSON) -> int | None:
    for number in reversed(repository.versions(name)):
        found = _record(repository, name, number)
        if {key: found.get(key) for key in ("raw", *identity)} == {"raw": None, **identity}:
            return number
    return None


def _record(repository: Repository, model: str, number: int) -> dict[str, JSON]:
    """Return the record of a version, empty if there is none. Raises MalformedError."""
    path = f"{model}/{number}/{RECORD}"
    data = repository.read(path)
    try:
        found = {} if data is None else canonical.load(data, limit=_LIMIT)
    except ValueError as error:
        raise MalformedError(
            f"`{path}` in `{repository.label}` is not acceptable JSON: {error}", subject=path
        ) from None
    if not isinstance(found, dict):
        raise MalformedError(f"`{path}` in `{repository.label}` is no record", subject=path)
    return found


def _change(rendered: Rendered, number: int, seen: Seen) -> Change:
    sites = {f"{rendered.name}/{path}": data for path, data in rendered.made.items() if path.startswith(f"{SITES}/")}
    return Change(rendered.name, number, rendered.made[CONFIG], *seen, sites)


def _check_config(data: bytes, path: str, on_event: OnEvent) -> None:
    """Hold a configuration against Triton's own protobuf, where its client is installed."""
    try:
        schema = importlib.import_module("tritonclient.grpc.model_config_pb2")
        text_format = importlib.import_module("google.protobuf.text_format")
    except ImportError:
        on_event(Note(f"{path} was not held against Triton's protobuf: {install('triton')} for that"))
        return
    text_format.Parse(data.decode(), schema.ModelConfig())


# what is served


def find_active(repository: Repository, model: str) -> int | None:
    """Return the version whose configuration is in force, or None."""
    config = repository.read(f"{model}/{CONFIG}")
    number = served_number(config)
    own = None if number is None else repository.read(f"{model}/{number}/{CONFIG}")
    return number if config is not None and own == config else None


def served_number(config: bytes | None) -> int | None:
    """Return the version that a configuration of ours serves, None for any other."""
    found = _VERSION.search(config or b"")
    return int(found[1]) if found else None


def publish(model: Model) -> None:
    """Put a rendered version in service for the next load, and with it the ensembles it is a step of."""
    for change in model.changes:
        apply(model.repository, change)


def apply(repository: Repository, change: Change) -> None:
    """Replace the configurations, each in one step. Raises SourceError if another writer switched meanwhile."""
    for path, data in change.sites.items():
        if repository.read(path) != data:
            repository.write(path, data)
    if change.config != change.previous and not repository.replace(change.path, change.config, change.state):
        raise SourceError(
            f"another writer changed `{change.path}` in `{repository.label}` meanwhile",
            hint=f"version {change.number} is complete there: look at what is served now, and repeat",
        )


def revert(repository: Repository, change: Change) -> bool:
    """Put the configuration back that was in force before; False if another writer changed it again, which stays."""
    data, state = repository.current(change.path)
    if data != change.config:
        return False
    if change.previous is None:
        repository.remove(change.path)
        return True
    return data == change.previous or repository.replace(change.path, change.previous, state)


# ensembles


def _placed_ensemble(
    repository: Repository, pipeline: Pipeline, about: JSON, seen: Seen, on_event: OnEvent
) -> tuple[Change, bool]:
    """Write the version of an ensemble with this record; return how it is put in service and whether it is new."""
    number, created, rendered = _placed(
        repository, None, about, lambda number: ensemble.render(pipeline, about, number), on_event
    )
    return _change(rendered, number, seen), created


def _ensembles_with(repository: Repository, model: str) -> list[tuple[Pipeline, Seen]]:
    """Return the repository's ensembles that have `model` as a step, with the state before any step is looked at."""
    found = []
    for name in repository.names():
        seen = repository.current(f"{name}/{CONFIG}")
        pipeline = _pipeline(repository, name, seen[0] or b"")
        if pipeline and model in {step.model for step in pipeline.steps}:
            found.append((pipeline, seen))
    return found


def _pipeline(repository: Repository, name: str, config: bytes) -> Pipeline | None:
    """Return the pipeline of an ensemble that is served, None for anything else."""
    number = served_number(config)
    if number is None or b'\nplatform: "ensemble"\n' not in config:
        return None
    about = _record(repository, name, number)
    if about.get("kind") != ensemble.KIND:
        return None
    try:
        return Pipeline.from_json(about["pipeline"])
    except (KeyError, TypeError) as error:
        path = f"{name}/{number}/{RECORD}"
        raise MalformedError(f"`{path}` in `{repository.label}` holds no pipeline: {error!r}", subject=path) from None


def _shrinks(change: Change) -> bool:
    """Tell whether an ensemble must change before its step: it must never take more rows than a step."""
    old, new = _BATCH.search(change.previous or b""), _BATCH.search(change.config)
    return bool(old and new and int(new[1]) < int(old[1]))


def _fitted(repository: Repository, pipeline: Pipeline, fresh: Rendered | None, number: int) -> JSON:
    """Return the record of a pipeline over what is served, and over `fresh` as if version `number` of it already were.

    Raises UsageError.
    """
    try:
        return _assembled(repository, pipeline, fresh, number)
    except UsageError as error:
        if fresh is None:
            raise
        raise UsageError(
            f"version {fresh.record['version']} of `{fresh.name}` does not fit the ensemble `{pipeline.name}`: {error}",
            hint=f"render it into another repository, or remove `{pipeline.name}` and write it anew with fitting steps",
        ) from None


def _assembled(repository: Repository, pipeline: Pipeline, fresh: Rendered | None, number: int) -> JSON:
    models = dict.fromkeys(step.model for step in pipeline.steps)
    sites = {model: _sites(repository, model, fresh) for model in models}

    def served(model: str, site: str) -> Served:
        own = f"{SITES}/{site}.pbtxt"
        return _served(repository, model, own if own in sites[model] else CONFIG, fresh, number)

    names = sorted(
        {path.removeprefix(f"{SITES}/").removesuffix(".pbtxt") for found in sites.values() for path in found}
    )
    steps = {model: served(model, "") for model in models}
    return ensemble.build_record(
        pipeline, steps, {site: {model: served(model, site) for model in models} for site in names}
    )


def _sites(repository: Repository, model: str, fresh: Rendered | None) -> set[str]:
    """Return the paths of the configurations of sites that a model has, or will have."""
    made = fresh.made if fresh is not None and fresh.name == model else ()
    return {f"{SITES}/{name}" for name in repository.names(f"{model}/{SITES}")} | {
        path for path in made if path.startswith(f"{SITES}/")
    }


def _served(repository: Repository, model: str, path: str, fresh: Rendered | None, number: int) -> Served:
    """Return what a configuration of a model serves. Raises UsageError with the close match."""
    own = fresh if fresh is not None and fresh.name == model else None
    config = (own.made.get(path) if own else None) or repository.read(f"{model}/{path}")
    if config is None:
        known = [name for name in repository.names() if not name.endswith(CANDIDATE)]
        hint = did_you_mean(model, known) if known else "render the bundles of the steps into it first"
        raise UsageError(f"there is no model `{model}` in `{repository.label}`", hint=hint)
    found = served_number(config)
    about = own.record if own and found == number else _record(repository, model, found or 0)
    if about.get("kind") == ensemble.KIND:
        raise UsageError(f"`{model}` is an ensemble itself", hint="name its steps instead")
    if about.get("raw"):
        raise UsageError(
            f"`{model}` takes rows as people have them, and an ensemble joins tensors",
            hint="render it without --raw into the repository of the ensemble",
        )
    batch, knobs = _BATCH.search(config), _KNOBS.search(config)
    if not found or not batch or not knobs or not {"bundle", "version", "interface"} <= about.keys():
        raise UsageError(
            f"`{model}/{path}` in `{repository.label}` was not rendered by packager",
            hint=f"render the bundle of `{model}` into the repository",
        )
    return Served(found, about, knobs[1].decode(), int(batch[1]))

# SPDX-License-Identifier: Apache-2.0
"""Say how a bundle was made, beside it in the store; `sign` signs that with the bundle.

What a build leaves to be signed (its drafts) is no part of the bundle: the digest of a bundle says nothing about who
built it, when, or how often.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from packager import canonical
from packager.actions.runner import Runner
from packager.build.build import Built
from packager.bundle.bundle import SBOM, Bundle
from packager.bundle.readers import StoredBundle
from packager.canonical import JSON
from packager.errors import UsageError
from packager.events import Warned
from packager.formats import cyclonedx, cyclonedx_libraries, distributions, oci, reference_outputs, slsa
from packager.formats.intoto import describe_resource, embed_resource
from packager.formats.wheel_locks import Wheel
from packager.lock import source_trust
from packager.lock.lock import Lock
from packager.policy import stated_facts
from packager.recipe.recipe import Recipe
from packager.release.sign import MAX_PREDICATE, MAX_STATED
from packager.store.store import Store
from packager.types import Action, Result

TREE = "application/vnd.packager.tree.v1+json"  # the digest of a tree is that of its listing as canonical JSON
_CREDENTIAL = re.compile(r"(?<=//)[^/@]*@")


def keep(recipe: Recipe, lock: Lock, built: Built, bundle: Bundle, runner: Runner, base: Path, run: slsa.Run) -> Bundle:
    """Leave the statements about `bundle`, just built, to be signed; return it with the knowledge of them.

    `base` is the directory of the recipe. A build in which no step ran adds nothing to what is known of the one before,
    and changes nothing.
    """
    store = runner.store
    made = build_predicate(recipe, lock, built, runner, base, run)
    known = store.entry(bundle.name, bundle.version).drafts
    if runner.executed == 0 and _says(known, store, made):
        return bundle
    sbom = bundle.tree.get(SBOM)
    given = {path: store.get(blob.digest) for path, blob in built.outputs}
    predicates = {
        slsa.PREDICATE: canonical.dump(made),
        reference_outputs.PREDICATE: canonical.dump(reference_outputs.state_outputs(bundle.tree, given)),
        cyclonedx.PREDICATE: store.get(sbom.digest) if sbom else b"",
        stated_facts.SCAN: canonical.dump(_unsigned(built.facts["scans"][0])),
    }
    if built.distributions is not None:
        predicates[distributions.PREDICATE] = canonical.dump(built.distributions.to_json())
    limits = {reference_outputs.PREDICATE: MAX_PREDICATE}  # outputs travel beside the statement
    for kind, data in list(predicates.items()):
        if len(data) > (limit := limits.get(kind, MAX_STATED)):
            del predicates[kind]
            runner.on_event(Warned(f"`{kind}` cannot be signed: expected at most {limit} bytes, got {len(data)}"))
    entry = store.draft(bundle.name, bundle.version, {k: store.put(v).digest for k, v in predicates.items()})
    return replace(bundle, medium=StoredBundle(store, entry, bundle.medium.label))


def _unsigned(row: JSON) -> JSON:
    """Return a row of facts without its signer, which the signature names."""
    return {name: value for name, value in row.items() if name != "signer"}


def _says(drafts: Mapping[str, str], store: Store, made: Mapping[str, JSON]) -> bool:
    """Tell whether a draft exists that describes the same build."""
    digest = drafts.get(slsa.PREDICATE)
    if digest is None or not store.has(digest):
        return False
    before: JSON = canonical.load(store.get(digest), limit=MAX_PREDICATE)
    return bool(before["buildDefinition"] == made["buildDefinition"])


def build_predicate(
    recipe: Recipe, lock: Lock, built: Built, runner: Runner, base: Path, run: slsa.Run
) -> dict[str, JSON]:
    """Return the provenance of a build: what was chosen, what it resolved to, what was observed."""
    files = {name: canonical.sha256(_content(base / name)) for name in list_read_files(recipe)}
    dependencies = [
        *_source(lock),
        *(describe_resource(name, digest) for name, digest in files.items()),
        *_tools(lock),
        *_wheels(lock),
    ]
    observed = run.to_json([*_measured(built), *_steps(runner.steps.values())])
    return slsa.write_predicate(_public(recipe.to_json()), lock.to_json(), files, dependencies, observed)


def list_read_files(recipe: Recipe) -> list[str]:
    """Return the names of the files beside the recipe that a build reads, sorted."""
    named = [
        recipe.card,
        recipe.calibration,
        recipe.samples,
        recipe.evaluation.data if recipe.evaluation else None,
        recipe.dependencies,
        *(promise.timing_cache for promise in recipe.runs_on),
        *(source_trust.files_of(recipe.trust) if recipe.trust else ()),
    ]
    rules = recipe.policy if recipe.policy.endswith((".yaml", ".yml")) else None
    return sorted({name for name in (*named, rules) if name is not None})


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read `{path}`: {error.strerror}") from None


def _public(recipe: dict[str, JSON]) -> dict[str, JSON]:
    """Return a recipe as written out, without the credentials that an address may hold."""
    return {**recipe, **{key: _CREDENTIAL.sub("", recipe[key]) for key in ("source", "registry") if key in recipe}}


def _source(lock: Lock) -> Iterator[JSON]:
    signed = {"signed": dict(lock.signed)} if lock.signed else {}
    uri, plugin = str(lock.source["uri"]), lock.source["kind"]
    yield describe_resource("source", lock.tree.digest, uri=uri, kind=TREE, plugin=plugin, **signed)
    if lock.base is not None:
        yield describe_resource("base", str(lock.base["bundle"]), kind=oci.MANIFEST)
    yield describe_resource("bundle.lock", canonical.sha256(canonical.dump(lock.to_json())), kind="application/json")


def _tools(lock: Lock) -> Iterator[JSON]:
    """Yield what can change bytes: by hash where the toolchain is locked, by version where it is the host's."""
    if lock.environment is not None:
        from packager.formats import project_locks  # only here: most builds run on the host's toolchain

        for pin in project_locks.parse(lock.environment.requirements.encode(), "requirements.txt").pins:
            digest, *others = sorted(pin.hashes)  # the lock accepts any of them
            address = cyclonedx_libraries.write_purl(pin.name, pin.version)
            yield describe_resource(pin.name, f"sha256:{digest}", uri=address, role="toolchain", others=others)
    for name, version in sorted(lock.toolchain.items()):
        if name in ("python", "machine"):
            yield describe_resource(f"{name} {version}", role="toolchain")
        elif lock.environment is None:
            yield describe_resource(name, uri=cyclonedx_libraries.write_purl(name, version), role="toolchain")


def _wheels(lock: Lock) -> Iterator[JSON]:
    """Yield every wheel of the locked runtimes once, with the runtimes that it serves."""
    users: dict[Wheel, set[str]] = {}
    for runtime, sets in lock.dependencies.wheels.items():
        for wheel in (wheel for wheels in sets.values() for wheel in wheels):
            users.setdefault(wheel, set()).add(runtime)
    for wheel in sorted(users, key=lambda wheel: (wheel.file, wheel.sha256)):
        address = wheel.url or cyclonedx_libraries.write_purl(wheel.name, wheel.version, wheel.file)
        yield describe_resource(wheel.file, f"sha256:{wheel.sha256}", uri=address, runtimes=sorted(users[wheel]))


def _measured(built: Built) -> Iterator[JSON]:
    yield embed_resource(slsa.FACTS, canonical.dump(stated_facts.write_measurements(built.facts)))
    yield embed_resource("verdict.json", canonical.dump(built.verdict.to_json()))
    for row in built.facts["confinement"]:
        yield embed_resource(
            slsa.CONFINEMENT, canonical.dump({name: said for name, said in row.items() if name != "signer"})
        )


def _steps(steps: Iterable[tuple[Action, Result]]) -> Iterator[JSON]:
    """Yield what every step gave; reading the metadata of wheels is part of locking, not of the build."""
    for action, result in sorted(steps, key=lambda item: item[0].key):
        if action.step != "describe":
            yield describe_resource(f"step {action.step}", result.tree, kind=TREE, key=action.key, cached=result.cached)

# SPDX-License-Identifier: Apache-2.0
"""Build a bundle again from its own provenance, in a store that holds nothing, and compare byte for byte.

The recipe and the lock come from a statement of a trusted signer; the source is fetched by its pin, and must
be the tree that the lock names. What a verdict says today does not matter here, nor what other releases there are: the
question is whether these bytes follow from that recipe, that lock and that source.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from packager import canonical, plugins, sources
from packager.actions.runner import Runner
from packager.build import build, bundle_files
from packager.bundle.bundle import RECORD, SBOM, Bundle, card_name
from packager.canonical import JSON
from packager.errors import IntegrityError, MalformedError, MissingStatementError, UsageError, WrongContentError
from packager.events import Note, OnEvent
from packager.formats import slsa
from packager.formats.slsa import Provenance
from packager.lock import lock as locks
from packager.lock import locking
from packager.lock.build_context import BuildContext
from packager.lock.lock import Lock
from packager.recipe import recipe as recipes
from packager.recipe.recipe import Recipe
from packager.release import explain
from packager.sandbox import sandbox
from packager.store.file_digests import Memo
from packager.store.store import Store
from packager.transport import copy
from packager.trust import evidence
from packager.trust.evidence import Evidence
from packager.trust.model import Trust
from packager.trust.verifier import Verifier
from packager.types import Blob

_LAST = (RECORD, SBOM)  # they list the digests of the others, so they differ whenever anything does


@dataclass(frozen=True, slots=True)
class Difference:
    """One file that is not what it should be, and how."""

    path: str
    expected: str | None
    got: str | None
    words: tuple[str, ...]

    def to_json(self) -> JSON:
        return {"path": self.path, "expected": self.expected, "got": self.got, "how": list(self.words)}


@dataclass(frozen=True, slots=True)
class Comparison:
    """A bundle beside what its provenance gives today."""

    published: Bundle
    rebuilt: Bundle
    differences: tuple[Difference, ...]
    builder: str = ""  # who made the published one, by its provenance

    @property
    def identical(self) -> bool:
        """Whether both have the same digest, and so the same bytes."""
        return self.published.digest == self.rebuilt.digest


def find_provenance(signed: Sequence[Evidence], trust: Trust) -> Provenance:
    """Return the newest provenance of a signer that may state it. Raises MissingStatementError,
    MalformedError.
    """
    found = []
    for item in evidence.statements_of_type(signed, trust, slsa.PREDICATE):
        try:
            found.append(slsa.parse(item.statement.predicate))
        except ValueError as error:
            raise MalformedError(f"provenance `{item.digest}` is malformed: {error}", subject=item.digest) from None
    if not found:
        raise MissingStatementError(
            "no trusted statement says how this bundle was made",
            hint="sign it where it was built (`packager sign NAME:VERSION`), so that its provenance is signed too",
        )
    return max(found, key=lambda item: (item.finished, item.invocation))


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where to rebuild: an empty store, a directory for files, and the callback for progress. `jobs` steps run at a
    time.
    """

    store: Store
    scratch: Path
    on_event: OnEvent
    jobs: int


def rebuild_bundle(
    bundle: Bundle,
    verifier: Verifier,
    store: Store,
    here: BuildContext,
    source: str | None,
    output: Path | None,
    on_event: OnEvent,
    jobs: int,
) -> Comparison:
    """Verify `bundle`, build it again in a scratch directory of `store`, compare, and save what came out to `output`.

    Of the rebuilt bundle only records are left to be read then.
    """
    verification = verifier.verify(bundle, on_event)
    verification.raise_for_failure()
    made = find_provenance(verification.evidence, verifier.trust)
    local = sources.local_path(source, Path()) if source else None
    with store.scratch() as scratch:
        place = Workplace(Store(scratch / "store"), scratch, on_event, jobs)
        found = rebuild(bundle, made, here, place, str(local.absolute()) if local else source)
        if output is not None:
            copy.save(found.rebuilt, output, on_event)
    return found


def rebuild(bundle: Bundle, made: Provenance, here: BuildContext, place: Workplace, source: str | None) -> Comparison:
    """Build what `made` describes and compare it with `bundle`.

    `source` names the source where it can be reached from here; None takes what the recipe says. Local paths, and the
    files that the recipe names, start at `here.base`.
    """
    recipe, lock = _parsed(made)
    recipe = _settled(recipe, made, bundle, here.base, place.scratch)
    limits = sandbox.Limits(recipe.limits.memory or sandbox.default_limits().memory, recipe.limits.minutes * 60)
    runner = Runner(place.store, limits, place.on_event, place.jobs)
    memo = Memo(place.store.root / "memo")
    place.on_event(Note(f"rebuilding what {made.builder} finished at {made.finished}"))
    _obtain(recipe, lock, runner, here, memo, source)
    fetched = build.fetch_source(recipe, lock, runner, here, memo)
    rebuilt = bundle_files.keep(recipe, build.assemble(recipe, lock, fetched, runner, here).files, runner, over=False)
    return Comparison(bundle, rebuilt, tuple(list_differences(bundle, rebuilt)), made.builder)


def _parsed(made: Provenance) -> tuple[Recipe, Lock]:
    recipe = recipes.parse(canonical.dump(made.recipe), "recipe of the provenance", plugins.list_names("runtimes"))
    return recipe, locks.of_json(made.lock, "lock of the provenance")


def _settled(recipe: Recipe, made: Provenance, bundle: Bundle, base: Path, scratch: Path) -> Recipe:
    """Return the recipe with its files at hand: the card out of the bundle, the others checked at `base`."""
    timings = (promise.timing_cache for promise in recipe.runs_on)
    for name in sorted({name for name in (recipe.calibration, *timings) if name is not None}):
        _check_file(base / name, name, made.files.get(name))
    settled = replace(recipe, previous="none", samples=None, evaluation=None)  # measured on data: no part of the bytes
    if recipe.card is None:
        return settled
    name = card_name(recipe.card)
    card = scratch / name
    card.write_bytes(bundle.read(name))
    _check_file(card, name, made.files.get(recipe.card))
    return replace(settled, card=str(card.absolute()))


def _check_file(path: Path, name: str, digest: str | None) -> None:
    if not path.is_file():
        raise UsageError(f"`{name}` was beside the recipe, and is not at `{path}`", hint="say where it is with --files")
    got = canonical.sha256(path.read_bytes())
    if got != digest:
        raise WrongContentError(f"`{name}` is not what was used: expected {digest}, got {got}", subject=name)


def _obtain(recipe: Recipe, lock: Lock, runner: Runner, here: BuildContext, memo: Memo, source: str | None) -> None:
    """Bring the locked source into the store, from where it is now."""
    if source is None:
        local = sources.local_path(recipe.source, here.base)
        if local is not None and not local.exists():
            raise UsageError(
                f"the source was `{recipe.source}` beside the recipe, and is not at `{local}`",
                hint="give the same files with --source",
            )
        locking.fetch_locked(lock, runner, here.settings(recipe, memo))
        return
    settings = here.settings(replace(recipe, source=source), memo)
    tree = locking.fetch(sources.load_for(source).resolve(source, settings), runner, settings)
    if tree != lock.tree:
        changed = sorted({path for path, _ in set(tree.files) ^ set(lock.tree.files)})
        raise IntegrityError(
            f"source `{sources.redact_address(source)}` is not what was locked: `{changed[0]}` differs",
            subject=changed[0],
        )


# comparing


def list_differences(published: Bundle, rebuilt: Bundle) -> Iterator[Difference]:
    """Yield every file that differs, causes first; records that only repeat digests come last."""
    old, new = dict(published.tree.files), dict(rebuilt.tree.files)
    changed = [path for path in {*old, *new} if old.get(path) != new.get(path)]
    for path in sorted(changed, key=lambda path: (path in _LAST, path)):
        before, after = old.get(path), new.get(path)
        if before and after:
            words = _explained(path, published, rebuilt, before, after)
        else:
            words = ["is missing from what was rebuilt" if before else "was not in the bundle"]
        yield Difference(path, before.digest if before else None, after.digest if after else None, tuple(words))
    if not changed and published.digest != rebuilt.digest:
        words = explain.explain("manifest.json", published.manifest, rebuilt.manifest)
        yield Difference("manifest", published.digest, rebuilt.digest, tuple(words))


def _explained(path: str, published: Bundle, rebuilt: Bundle, before: Blob, after: Blob) -> list[str]:
    if max(before.size, after.size) > explain.LARGEST:
        return [f"{before.size} bytes, are {after.size}; too large to be explained"]
    old, new = (side.read(path, limit=explain.LARGEST) for side in (published, rebuilt))
    if path.endswith(".bin"):
        return explain.explain_weights(old, new, _regions(path, published))
    return explain.explain(path, old, new)


def _regions(path: str, published: Bundle) -> list[tuple[int, int, str]]:
    """Return which constants of the graph beside it lie in an external data file."""
    folder, _, name = path.rpartition("/")
    for graph, blob in published.tree:
        if graph.rpartition("/")[0] == folder and graph.endswith(".onnx") and blob.size <= explain.LARGEST:
            return explain.list_regions(published.read(graph, limit=explain.LARGEST)).get(name, [])
    return []

# SPDX-License-Identifier: Apache-2.0
"""Promises that a publisher adds to a bundle after it was signed: a statement, and what the contract says with it.

The bundle does not change. Only a runtime that runs what another one's artefact is (Triton, around ONNX Runtime) can be
promised so, because nothing new is compiled; and only by a signer of the bundle itself, because a promise is
the publisher's word. What a statement adds is written out in it, so that everybody reads the same.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import BinaryIO

from packager import canonical, plugins
from packager.bundle.bundle import CONTRACT, Bundle
from packager.bundle.readers import Medium
from packager.canonical import JSON
from packager.contract import contract, derivation, preflight, runtime_support
from packager.contract.runtime_tables import Outcome, Tables, load_shipped
from packager.errors import IntegrityError, UsageError
from packager.formats import intoto
from packager.knobs import catalogue, knobs
from packager.recipe.clauses import Target
from packager.runtime import load_runtime
from packager.trust.evidence import Evidence
from packager.types import Blob, Tree

PREDICATE = "urn:packager:promise:v1"
_DEVICE, _PRECISION = "cpu", "fp32"  # the target of such a runtime: the graph itself


@dataclass(frozen=True, slots=True)
class PromiseDraft:
    """A promise of one more runtime that is not signed: the predicate, and what is known of each promised version."""

    runtime: str
    versions: str
    predicate: Mapping[str, JSON]
    cells: tuple[preflight.Cell, ...]
    predicate_type: str = PREDICATE

    @property
    def outcome(self) -> Outcome:
        """Whether every promised version is known to run the bundle; `unknown` where no version is known."""
        return preflight.worst_outcome(cell.answer.outcome for cell in self.cells) if self.cells else "unknown"


def draft_promise(bundle: Bundle, runtime: str, versions: str, tables: Tables = load_shipped) -> PromiseDraft:
    """Return what has to be signed to promise `versions` (a PEP 440 range) of `runtime` too. Raises UsageError."""
    added = build_predicate(bundle.contract.document, runtime, versions)
    return PromiseDraft(runtime, versions, added, tuple(judge_addition(bundle, added, tables)))


def build_predicate(document: JSON, runtime: str, versions: str) -> dict[str, JSON]:
    """Return what is stated to promise `versions` of `runtime` on top of the contract `document`.

    Raises UsageError where the contract promises it already, or has no artefact that the runtime could run.
    """
    engine = load_runtime(runtime).engine
    runtime_support.parse_specifier(versions, runtime)
    if runtime in document["runs-on"]:
        raise UsageError(f"the contract promises `{runtime}` {document['runs-on'][runtime]['versions']} already")
    like = document["targets"].get(Target(engine, _DEVICE, _PRECISION).name)
    if engine == runtime or like is None:
        able = ", ".join(name for name in plugins.list_names("runtimes") if load_runtime(name).engine != name)
        raise UsageError(
            f"`{runtime}` cannot be promised afterwards: the bundle holds nothing compiled for it",
            hint=f"what runs another runtime's graph can be added: {able}; anything else is built, from `runs-on`",
        )
    target = Target(runtime, _DEVICE, _PRECISION)
    return {
        "runs-on": {runtime: derivation.promise_of(runtime, versions, document["graph"])},
        "targets": {target.name: {**like, **target.to_json()}},
    }


def judge_addition(bundle: Bundle, added: Mapping[str, JSON], tables: Tables = load_shipped) -> list[preflight.Cell]:
    """Return the cells of the versions that an addition promises, as `packager compat` judges them."""
    promised = contract.parse(canonical.dump(_with(bundle.contract.document, added)))
    (runtime,) = added["runs-on"]
    return [cell for cell in preflight.judge_everywhere(promised, tables) if cell.runtime == runtime and cell.promised]


def extend_contract(bundle: Bundle, found: Iterable[Evidence]) -> Bundle:
    """Return a view of `bundle` whose contract and knobs hold the promises among trusted statements about it.

    For questions, and for what is rendered from them: signatures and files are those of the bundle itself. Raises
    IntegrityError for an addition that would change what is promised.
    """
    found = list(found)
    publishers = {item.attested.identity for item in found if item.statement.predicate_type == intoto.BUNDLE_PREDICATE}
    added = [
        item for item in found if item.statement.predicate_type == PREDICATE and item.attested.identity in publishers
    ]
    if not added:
        return bundle
    document = bundle.contract.document
    for item in sorted(added, key=lambda item: item.digest):
        document = _checked(document, item.statement.predicate, item.digest)
    return _view(bundle, {CONTRACT: canonical.dump(document), knobs.FILE: catalogue.schema_bytes(document)})


def _checked(document: JSON, added: JSON, subject: str) -> JSON:
    """Return a contract with an addition; the same one twice is one."""
    try:
        ((runtime, promise),), ((name, terms),) = added["runs-on"].items(), added["targets"].items()
        known = document["runs-on"].get(runtime), document["targets"].get(name)
        if known == (promise, terms):
            return document
        plain = {key: member for key, member in terms.items() if key != "runtime"}
        same = any(
            {key: member for key, member in other.items() if key != "runtime"} == plain
            for other in document["targets"].values()
        )
        if set(added) != {"runs-on", "targets"} or known != (None, None) or not same or terms["runtime"] != runtime:
            raise ValueError("it changes what the contract says")
        extended = _with(document, added)
        contract.parse(canonical.dump(extended))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"`{subject}` adds no promise to this contract: {error}", subject=subject) from None
    return extended


def _with(document: JSON, added: Mapping[str, JSON]) -> JSON:
    return {**document, **{key: {**document[key], **added[key]} for key in ("runs-on", "targets")}}


def _view(bundle: Bundle, files: Mapping[str, bytes]) -> Bundle:
    blobs = {path: Blob(canonical.sha256(data), len(data)) for path, data in files.items()}
    data = {blobs[path].digest: content for path, content in files.items()}
    return replace(bundle, tree=Tree.of({**dict(bundle.tree.files), **blobs}), medium=_Overlaid(bundle.medium, data))


class _Overlaid:
    """A medium on which a few small files have another content."""

    def __init__(self, under: Medium, files: Mapping[str, bytes]) -> None:
        self.label, self._under, self._files = under.label, under, files

    def index(self) -> bytes:
        return self._under.index()

    def open_record(self, digest: str) -> BinaryIO:
        return self._under.open_record(digest)

    def open_file(self, path: str, blob: Blob) -> BinaryIO:
        data = self._files.get(blob.digest)
        return self._under.open_file(path, blob) if data is None else io.BytesIO(data)

    def place(self, path: str, blob: Blob) -> str:
        return self._under.place(path, blob)

    def check_extent(self, tree: Tree, records: Iterable[str]) -> None:
        self._under.check_extent(tree, records)

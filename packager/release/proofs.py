# SPDX-License-Identifier: Apache-2.0
"""What is stated of a bundle beside it: where it was seen to run, and of which model it was made.

Read are the statements that travel with a bundle, and the unsigned drafts of a build. Their
signatures are not checked here, as little as that of the contract which they complete: `packager verify` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from packager.bundle.bundle import SBOM, Bundle
from packager.canonical import JSON
from packager.errors import PackagerError
from packager.formats import cyclonedx, slsa
from packager.formats.intoto import Statement
from packager.release.sign import read_drafts
from packager.trust.verify import read_statements

if TYPE_CHECKING:
    from packager.contract.preflight import Place, Proofs

SOURCES = BY_BUILD, BY_SUITE = "measured by its build", "conformed"


def list_proofs(bundle: Bundle, statements: Iterable[Statement] | None = None) -> Proofs:
    """Return the places where the artefacts of a bundle ran right, each with what showed it.

    `statements` are those to believe, by default all that travel with the bundle, unchecked.
    """
    from packager.conform import results  # only here: `inspect` asks for the origin alone, and stays light

    found: dict[Place, str] = {}
    for statement in _about(bundle) if statements is None else statements:
        try:
            if statement.predicate_type == slsa.PREDICATE:
                found |= dict.fromkeys(_measured(statement.predicate), BY_BUILD)
            elif statement.predicate_type == results.PREDICATE:
                found |= dict.fromkeys(_passed(results.read_details(statement, "statement")), BY_SUITE)
        except (ValueError, KeyError, TypeError, AttributeError, PackagerError):
            continue  # of another builder or suite: it shows nothing that could be read here
    return found


def find_origin(bundle: Bundle, statements: Iterable[Statement] | None = None) -> JSON:
    """Return which model a bundle was made of: the pinned `uri` and its `tree`, and, where provenance tells, more.

    That is what the recipe called it (`reference`), and its `name` and `version` in its registry. `statements` are
    those to believe, by default all that travel with the bundle, unchecked.
    """
    sbom = bundle.load(SBOM) if bundle.tree.get(SBOM) is not None else {}
    uri, tree = cyclonedx.origin(sbom) or (None, None)
    found: dict[str, JSON] = {"uri": uri, "tree": tree, "reference": None, "name": None, "version": None}
    for statement in _about(bundle) if statements is None else statements:
        try:
            if statement.predicate_type == slsa.PREDICATE:
                made = slsa.parse(statement.predicate)
                details = made.lock["source"].get("details") or {}
                found |= {"reference": str(made.recipe["source"])}
                found |= {key: str(details[key]) for key in ("name", "version") if details.get(key) is not None}
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return found


def _about(bundle: Bundle) -> Iterator[Statement]:
    subject = bundle.digest.removeprefix("sha256:")
    for kind, predicate in read_drafts(bundle).items():
        yield Statement(kind, f"{bundle.name}:{bundle.version}", subject, predicate)
    yield from (statement for statement in read_statements(bundle) if statement.subject_sha256 == subject)


def _measured(predicate: JSON) -> Iterator[Place]:
    made = slsa.parse(predicate)
    for name, target in (made.facts or {"targets": {}})["targets"].items():
        version = made.lock["toolchain"].get(target["engine"])
        if version and target["unmeasured"] is None and target["cases"]:
            yield name, target["engine"], version


def _passed(result: JSON) -> Iterator[Place]:
    for cell in result["cells"]:
        if cell["outcome"] == "pass":
            yield cell["target"], cell["runtime"], cell["version"]

# SPDX-License-Identifier: Apache-2.0
"""Where a bundle was seen to run: what its build measured it on, and what conformance runs passed.

That is what the statements say which travel with a bundle, and the drafts of a build that nobody has signed yet. Their
signatures are not checked here, as little as that of the contract which they complete: `packager verify` does.
"""

from __future__ import annotations

from collections.abc import Iterator

from packager.bundle import Bundle
from packager.canonical import JSON
from packager.compat import Place, Proofs
from packager.conform import results
from packager.errors import PackagerError
from packager.formats import slsa
from packager.formats.intoto import Statement
from packager.sign import drafts
from packager.verify import statements

BY_BUILD, BY_SUITE = "measured by its build", "conformed"


def proven(bundle: Bundle) -> Proofs:
    """Return the places where the artefacts of a bundle ran right, each with what showed it."""
    found: dict[Place, str] = {}
    for statement in _about(bundle):
        try:
            if statement.predicate_type == slsa.PREDICATE:
                found |= dict.fromkeys(_measured(statement.predicate), BY_BUILD)
            elif statement.predicate_type == results.PREDICATE:
                found |= dict.fromkeys(_passed(results.details(statement, "statement")), BY_SUITE)
        except (ValueError, KeyError, TypeError, AttributeError, PackagerError):
            continue  # of another builder or suite: it shows nothing that could be read here
    return found


def _about(bundle: Bundle) -> Iterator[Statement]:
    subject = bundle.digest.removeprefix("sha256:")
    for kind, predicate in drafts(bundle).items():
        yield Statement(kind, f"{bundle.name}:{bundle.version}", subject, predicate)
    yield from (statement for statement in statements(bundle) if statement.subject_sha256 == subject)


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

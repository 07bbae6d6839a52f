# SPDX-License-Identifier: Apache-2.0
"""What is stated of a bundle beside it: where it was seen to run, of which model it was made, and what it reaches.

Read are the statements that travel with a bundle, and the unsigned drafts of a build. Their
signatures are not checked here, as little as that of the contract which they complete: `packager verify` does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from packager.bundle.bundle import SBOM, Bundle
from packager.canonical import JSON
from packager.errors import PackagerError
from packager.formats import cyclonedx, distributions, slsa
from packager.formats.intoto import Statement
from packager.recipe.evaluation import ERRORS
from packager.release.sign import read_drafts
from packager.server.telemetry.distribution_file import Distributions
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
    uri, tree = cyclonedx.read_origin(sbom) or (None, None)
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


def find_distributions(bundle: Bundle, statements: Iterable[Statement] | None = None) -> Distributions | None:
    """Return the distributions of the data that a bundle was measured on; None where nothing states them.

    `statements` are as in `find_origin`; one of another form, such as that of a later version, is as good as absent.
    """
    found = None
    for statement in _about(bundle) if statements is None else statements:
        if statement.predicate_type == distributions.PREDICATE:
            with contextlib.suppress(PackagerError):
                found = distributions.read(statement.predicate, "the statement of distributions")
    return found


def find_evaluations(bundle: Bundle, statements: Iterable[Statement] | None = None) -> dict[str, JSON]:
    """Return by target what its build measured on rows with labels: metric, bound, both values, data, slices.

    `label`, `output` and `columns` say how the rows are read. `statements` are as in `find_origin`.
    """
    found: dict[str, JSON] = {}
    for statement in _about(bundle) if statements is None else statements:
        try:
            if statement.predicate_type == slsa.PREDICATE:
                made = slsa.parse(statement.predicate)
                targets = (made.facts or {"targets": {}})["targets"]
                found |= {
                    name: _evaluation(item["evaluation"], made.recipe["evaluation"])
                    for name, item in sorted(targets.items())
                    if "evaluation" in item
                }
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return found


def _evaluation(measured: JSON, wanted: JSON) -> dict[str, JSON]:
    """Return what was measured with what the recipe demanded. Raises ValueError, KeyError, TypeError for others."""
    limit = measured.get("slice-bound")
    return {
        **{key: str(measured[key]) for key in ("metric", "data")},
        **_reached(measured),
        "bound": float(measured["bound"]),
        "slice_bound": None if limit is None else float(limit),
        "label": str(wanted["label"]),
        "output": str(wanted["output"]) if "output" in wanted else None,
        "columns": [str(name) for name in wanted.get("slices", ())],
        "slices": [
            {**{key: str(item[key]) for key in ("column", "value")}, **_reached(item)} for item in measured["slices"]
        ],
    }


def _reached(item: JSON) -> dict[str, JSON]:
    values = {key: None if item[key] is None else float(item[key]) for key in ("source", "target")}
    return {"rows": int(item["rows"]), **values}


def find_worst(found: Mapping[str, JSON]) -> JSON:
    """Return the slice on which a target reaches least, of an error most; None where no slice has a value."""
    known = [item for item in found["slices"] if item["target"] is not None]
    chosen = max if found["metric"] in ERRORS else min
    return chosen(known, key=lambda item: item["target"]) if known else None


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

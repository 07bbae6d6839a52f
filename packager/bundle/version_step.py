# SPDX-License-Identifier: Apache-2.0
"""Whether a build takes a large enough version step from the release before it."""

from __future__ import annotations

import re
from pathlib import Path

from packager import canonical, semver
from packager.bundle.bundle import CONTRACT, Bundle, open_bundle
from packager.bundle.changes import compare_versions, next_version
from packager.bundle.interface_changes import compare_interface
from packager.canonical import JSON
from packager.contract import contract
from packager.contract.contract import Contract
from packager.edits import Edit
from packager.errors import MalformedError, NegativeAnswerError, UsageError
from packager.recipe.recipe import Recipe
from packager.store.store import Store

NONE = "none"


def check_step(recipe: Recipe, derived: JSON, store: Store, base: Path) -> None:
    """Raise NegativeAnswer if the interface broke since the release before without a large enough version step.

    That release is what `previous` names, else the newest older version of the same name in the local store. Raises
    UsageError when its contract is of a format that this program does not read.
    """
    try:
        before = release_before(recipe, store, base)
    except MalformedError as error:
        if error.subject != CONTRACT:
            raise
        raise UsageError(
            f"cannot compare with the previous release of `{recipe.name}`: {error.message}",
            hint="name another release under `previous` in the recipe, or write `previous: none`",
            edits=[Edit(("previous",), NONE)],
        ) from None
    if before is None:
        return
    old, new = before.contract, contract.parse(canonical.dump(derived))
    broken = [change for change in compare_interface(old, new) if change.level == "major"]
    if not broken or compare_versions(before.version, recipe.version) == "major":
        return
    if recipe.previous is None and (unlike := _unlike(old, new)):
        raise NegativeAnswerError(
            f"`{before.name}:{before.version}` in the store is another model: it takes {unlike}",
            hint=f"give this one a `name` of its own, or, if `{recipe.name}` is this one now, write `previous: none`",
            edits=[Edit(("previous",), NONE, consents=True)],
        )
    raise NegativeAnswerError(
        f"`{recipe.name}:{recipe.version}` breaks the interface of {before.version}: `{broken[0].subject}` "
        f"{broken[0].message}",
        hint=f"release it as {next_version(before.version, 'major')}; or, if {before.version} is not in use, "
        "write `previous: none` in the recipe",
        edits=[Edit(("version",), next_version(before.version, "major"), consents=True)],
    )


def _unlike(old: Contract, new: Contract) -> str:
    """Return what another model takes where it has no input in common with this one, else nothing."""
    names = {port.name for port in old.inputs}
    return "" if names & {port.name for port in new.inputs} else ", ".join(f"`{name:.63}`" for name in sorted(names))


def release_before(recipe: Recipe, store: Store, base: Path) -> Bundle | None:
    """Return the release that `previous` names, else the newest older one of that name in the store; None if none."""
    named = recipe.previous
    if named == NONE:
        return None
    if named is None:
        limit = semver.precedence_key(recipe.version)
        older = [v for name, v in store.bundles() if name == recipe.name and semver.precedence_key(v) < limit]
        newest = max(older, key=semver.precedence_key, default=None)
        return open_bundle(f"{recipe.name}:{newest}", lambda: store) if newest else None
    if re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+\S*", named):
        return open_bundle(f"{recipe.name}:{named}", lambda: store)
    found = open_bundle(str(base / named) if (base / named).exists() else named, lambda: store)
    if found.name != recipe.name:
        raise UsageError(f"`previous` names `{found.name}`, expected a release of `{recipe.name}`")
    return found

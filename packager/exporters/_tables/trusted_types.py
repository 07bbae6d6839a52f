# SPDX-License-Identifier: Apache-2.0
"""Which names of scikit-learn skops trusts by itself: its estimators, those that `all_estimators` lists.

That function imports every package of scikit-learn, and pytest, which takes most of a second; a name that an archive
states is looked up in the one package that shows it.
"""

from __future__ import annotations

import contextlib
import importlib

_NOT_LISTED = {"tests", "externals", "setup", "conftest", "experimental", "estimator_checks"}
"""Parts of module names that `all_estimators` leaves out, as it leaves out private ones."""


def is_estimator(name: str) -> bool:
    """Say whether `all_estimators` lists a class, by what the public package around its module shows.

    False may mean that it is shown elsewhere: then `list_estimators` knows.
    """
    module, _, member = name.rpartition(".")
    public = module.partition("._")[0]
    if not public.startswith("sklearn.") or member.startswith("_") or not _NOT_LISTED.isdisjoint(public.split(".")):
        return False
    with contextlib.suppress(ImportError):
        base = importlib.import_module("sklearn.base").BaseEstimator
        found = getattr(importlib.import_module(public), member, None)
        if isinstance(found, type) and issubclass(found, base) and found is not base:
            return not getattr(found, "__abstractmethods__", None) and name == _name_of(found)
    return False


def list_estimators() -> set[str]:
    """Return the names of all estimators of scikit-learn."""
    found = importlib.import_module("sklearn.utils").all_estimators()
    return {name for _, kind in found if (name := _name_of(kind)).startswith("sklearn.")}


def _name_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__name__}"

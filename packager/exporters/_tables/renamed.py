# SPDX-License-Identifier: Apache-2.0
"""Modules of scikit-learn under their names before 0.22, so that older pickles find their classes.

Most only got an underscore in front. What such a pickle holds is the business of the library's version all the same.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType

_LIBRARY = "sklearn"
_NAMED_ANEW = {
    "sklearn.cluster.hierarchical": "sklearn.cluster._agglomerative",
    "sklearn.cluster.k_means_": "sklearn.cluster._kmeans",
    "sklearn.decomposition.online_lda": "sklearn.decomposition._lda",
    "sklearn.ensemble.gradient_boosting": "sklearn.ensemble._gb",
    "sklearn.externals.joblib": "joblib",
    "sklearn.externals.joblib.numpy_pickle": "joblib.numpy_pickle",
    "sklearn.feature_extraction.hashing": "sklearn.feature_extraction._hash",
    "sklearn.neighbors._dist_metrics": "sklearn.metrics._dist_metrics",
    "sklearn.neighbors.dist_metrics": "sklearn.metrics._dist_metrics",
    "sklearn.tree.tree": "sklearn.tree._classes",
}


def current_name(name: str) -> str | None:
    """Return what a module of scikit-learn is called today; None for one that is gone or of another library."""
    if not name.startswith(f"{_LIBRARY}."):
        return None
    parent, _, last = name.rpartition(".")
    for candidate in filter(None, (_NAMED_ANEW.get(name), f"{parent}._{last.strip('_')}")):
        with contextlib.suppress(ImportError):
            if candidate != name and importlib.util.find_spec(candidate):
                return candidate
    return None


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the module of today for its old name, where nothing else does."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(fullname, self) if current_name(fullname) else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        found = importlib.import_module(current_name(spec.name) or spec.name)
        alias = ModuleType(spec.name)
        alias.__dict__.update({key: value for key, value in vars(found).items() if not key.startswith("__")})
        return alias

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing left to run."""


@contextlib.contextmanager
def old_names_importable() -> Iterator[None]:
    """Let imports find the old names while this lasts."""
    finder = _Finder()
    sys.meta_path.append(finder)  # last: what is there under its own name is taken
    try:
        yield
    finally:
        sys.meta_path.remove(finder)

# SPDX-License-Identifier: Apache-2.0
"""Open `.skops` archives: estimators as JSON and arrays, restored through the constructors of installed classes.

The archive names classes and says how to fill them; skops imports their modules and refuses a type nobody trusts. The
list of trusted types that MLflow records comes from the author of the model, so it is no permission by itself: types
outside the libraries below would be the author's own code, or a way to run some (`builtins.eval`). They are refused.

A class written in C trusts the state it is given: wrong node numbers make a tree read outside its memory. Such classes
are refused too, but for the trees of scikit-learn, which are checked before anything walks them.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packager.errors import MissingToolError, StepError
from packager.exporters import _archive, _text

_LIBRARIES = ("sklearn", "numpy", "scipy", "xgboost", "lightgbm")
_EXACTLY = {"collections.OrderedDict", "collections.defaultdict", "numpy.dtype", "sklearn.tree._tree.Tree"}
_WRITTEN_IN_PYTHON = 1 << 9  # Py_TPFLAGS_HEAPTYPE


def load(path: Path, recorded: Sequence[str] = ()) -> Any:
    """Open an archive. Raises StepError for a broken one, and for one that needs types beyond the known libraries.

    `recorded` are the types that MLflow wrote down as trusted; without any (a bare file) those of the archive count.
    """
    try:
        skops = importlib.import_module("skops.io")
    except ImportError:
        raise MissingToolError("skops", "sklearn") from None
    _archive.refuse_bomb(path)
    try:
        unknown = skops.get_untrusted_types(file=path)
        foreign = [name for name in unknown if not _is_known(name)]
        if not foreign:
            model = skops.load(path, trusted=sorted(set(unknown) & set(recorded or unknown)))
            _check_trees(model)
            return model
    except Exception as error:  # a hostile or old archive can fail anywhere in zipfile, JSON and numpy
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StepError(
            f"`{path.name}` cannot be opened: {type(error).__name__}: {first:.300}",
            hint="save the model again with the installed versions of scikit-learn and skops",
        ) from error
    raise StepError(
        f"`{path.name}` needs `{foreign[0]}`, which is code from outside the known libraries",
        hint=f"build the model from {', '.join(_LIBRARIES)} alone",
    )


def _is_known(name: str) -> bool:
    """Say whether a type is a class of a known library: a function of one could be made to run text (`np.testing`)."""
    module, _, attribute = name.rpartition(".")
    if name in _EXACTLY:
        return True
    if module.partition(".")[0] not in _LIBRARIES or not re.fullmatch(r"[\w.]+", name) or "test" in module:
        return False
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return False
    return inspect.isclass(found) and bool(found.__flags__ & _WRITTEN_IN_PYTHON)


def _check_trees(model: Any) -> None:
    """Raise ValueError for a tree whose walk could leave its arrays or never end."""
    for part in _text.parts(model):
        tree = getattr(part, "tree_", None)
        if tree is not None:
            _check_nodes(tree.children_left, tree.children_right, tree.feature, tree.n_features)
        for predictors in getattr(part, "_predictors", ()):
            for predictor in predictors:
                _check_histogram_tree(predictor, part._n_features)


def _check_nodes(left: Any, right: Any, feature: Any, width: int) -> None:
    """Check that children come after their parents and exist, and that every split looks at a column that exists."""
    numpy = importlib.import_module("numpy")
    places = numpy.arange(len(left))
    leaf = left == -1
    inner = (left > places) & (left < len(left)) & (right > places) & (right < len(left))
    if not len(left) or not (leaf | (inner & (feature >= 0) & (feature < width))).all():
        raise ValueError("a tree has a node outside its arrays")


def _check_histogram_tree(predictor: Any, width: int) -> None:
    nodes, numpy = predictor.nodes, importlib.import_module("numpy")
    leaf = nodes["is_leaf"].astype(bool)
    left = numpy.where(leaf, -1, nodes["left"].astype("int64"))
    _check_nodes(left, nodes["right"].astype("int64"), nodes["feature_idx"], width)
    categories = len(predictor.raw_left_cat_bitsets)
    if (nodes["bitset_idx"][nodes["is_categorical"].astype(bool)] >= categories).any():
        raise ValueError("a tree has a set of categories outside its arrays")

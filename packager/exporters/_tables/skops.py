# SPDX-License-Identifier: Apache-2.0
"""Open `.skops` archives: estimators as JSON and arrays, restored through the constructors of installed classes.

The archive names classes and functions and says how to fill them; skops imports their modules and refuses types that
are not trusted. The list of trusted types that MLflow records comes from the author of the model and is no permission:
trusted are the names that a pickle may import too, each by itself and never a package. A distribution of
`scipy.stats` runs text when its state is set.

A class written in C trusts the state it is given: wrong node numbers make a tree read outside its memory. Trees of
scikit-learn are checked before anything walks them; the trees of nearest neighbours are built again from their points.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from packager import error_causes
from packager.errors import MissingToolError, StepError
from packager.exporters._files import archive
from packager.exporters._tables import trusted_types
from packager.scanners._allowlist import ALLOWED

_WAY_OUT = (
    "build the model from what scikit-learn, numpy, SciPy, LightGBM and XGBoost bring; or pickle it and consent to "
    "its code with `allow-pickle: true`"
)
_SEARCHED = "a search keeps the distributions it drew from: save its `best_estimator_`"


def load(path: Path, recorded: Sequence[str] = ()) -> Any:
    """Open an archive. Raises StepError for a broken one, and for one that needs types beyond the list.

    `recorded` are the types that MLflow wrote down as trusted; without any (a bare file) those of the archive count.
    """
    try:
        skops = _library()
    except ImportError:
        raise MissingToolError("skops", "sklearn") from None
    archive.refuse_bomb(path)
    try:
        unknown = _list_untrusted(skops, path, recorded)
        foreign = [name for name in unknown if not _is_allowed(name)]
        if not foreign:
            return _checked(skops.load(path, trusted=sorted(set(unknown) & set(recorded or unknown))))
    except Exception as error:  # a hostile or old archive can fail anywhere in zipfile, JSON and numpy
        raise StepError(
            f"`{path.name}` cannot be opened: {error_causes.find_cause(error)}",
            hint="save the model again with the installed versions of scikit-learn and skops",
        ) from error
    raise StepError(
        f"`{foreign[0]}` in `{path.name}` is not on the list of types known to be safe",
        hint=_SEARCHED if foreign[0].startswith("scipy.stats.") else _WAY_OUT,
    )


def preload() -> None:
    """Import skops if it is installed."""
    with contextlib.suppress(ImportError):
        _library()


def _library() -> Any:
    if "skops.io" not in sys.modules:
        with hidden("pandas", *NEVER_USED):  # scikit-learn names it at one place, and does not use it there
            importlib.import_module("sklearn.base")
        with hidden(*NEVER_USED), _unlisted():
            return importlib.import_module("skops.io")
    return importlib.import_module("skops.io")


NEVER_USED = ("torch", "cupy", "dask", "jax")


def _list_untrusted(skops: Any, path: Path, recorded: Sequence[str]) -> list[str]:
    """Return the types in an archive that skops does not trust by itself, as if it knew all of scikit-learn."""
    unknown: list[str] = skops.get_untrusted_types(file=path)
    trusted = importlib.import_module("skops.io._trusted_types").SKLEARN_ESTIMATOR_TYPE_NAMES
    with hidden(*NEVER_USED):
        named = {name for name in unknown if name.startswith("sklearn.") and name not in trusted}
        if not named:
            return unknown
        trusted += sorted(name for name in named if trusted_types.is_estimator(name))
        if any(name not in recorded and (recorded or not _is_allowed(name)) for name in named - set(trusted)):
            trusted += sorted(trusted_types.list_estimators() - set(trusted))
    return list(skops.get_untrusted_types(file=path))


def _is_allowed(name: str) -> bool:
    module, _, member = name.rpartition(".")
    return (module, member) in ALLOWED


@contextlib.contextmanager
def _unlisted() -> Iterator[None]:
    """Have scikit-learn name none of its estimators inside: what an archive names is looked up when it is opened."""
    utils: Any = importlib.import_module("sklearn.utils")
    listing = utils.all_estimators
    utils.all_estimators = lambda *_, **__: []
    try:
        yield
    finally:
        utils.all_estimators = listing


class _Hidden:
    """A finder of modules by which imports of some libraries fail, where they are not loaded yet."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name in self._names:
            raise ModuleNotFoundError(f"`{name}` is not imported here", name=name)


@contextlib.contextmanager
def hidden(*names: str) -> Iterator[None]:
    """Have imports of libraries fail inside.

    Adapters for other array libraries load whole frameworks (torch: 1.7 seconds) that no archive of data can use.
    """
    finder = _Hidden(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _checked(model: Any) -> Any:
    """Return the model with what C code walks in it checked or built again. Raises ValueError for a hostile one."""
    found = list(_objects(model))
    held = {id(value) for part in found if hasattr(part, "__dict__") for value in _check_part(part)}
    if loose := [part for part in found if type(part).__module__ in _WALKED and id(part) not in held]:
        raise ValueError(f"a {type(loose[0]).__name__} stands where no estimator holds it")
    return model


_NEIGHBOURS = ("sklearn.neighbors._kd_tree", "sklearn.neighbors._ball_tree")
_WALKED = ("sklearn.tree._tree", *_NEIGHBOURS)


def _check_part(part: Any) -> list[Any]:
    """Check the trees that one object holds, build those of nearest neighbours again, and return all of them."""
    held = []
    for name, value in list(vars(part).items()):
        if type(value).__module__ in _NEIGHBOURS:
            setattr(part, name, _built_again(value))
            held.append(value)
    width, tree = getattr(part, "n_features_in_", 0), vars(part).get("tree_")
    if hasattr(tree, "children_left"):
        _check_nodes(tree.children_left, tree.children_right, tree.feature, min(tree.n_features, width))
        held.append(tree)
    for predictor in (predictor for row in vars(part).get("_predictors", ()) for predictor in row):
        _check_histogram_tree(predictor, min(part._n_features, width))
    return held


def _built_again(tree: Any) -> Any:
    """Return the tree over the same points that its own constructor builds: the same one, if it was honest."""
    data, _, _, _, leaf, *_, metric, weights = tree.__getstate__()
    return type(tree)(data, leaf_size=leaf, metric=metric, sample_weight=weights)


def _objects(root: Any) -> Iterator[Any]:
    """Yield every object inside a value, itself first: attributes, containers and arrays of objects are followed."""
    seen: dict[int, Any] = {}
    left = [root]
    while left:
        value = left.pop()
        if isinstance(value, type | str | bytes | int | float) or id(value) in seen:
            continue
        seen[id(value)] = value
        yield value
        if isinstance(value, dict):
            left.extend(value.values())
        elif isinstance(value, list | tuple | set) or str(getattr(value, "dtype", "")) == "object":
            left.extend(getattr(value, "flat", value))
        left.extend(getattr(value, "__dict__", {}).values())


def _check_nodes(left: Any, right: Any, feature: Any, width: int) -> None:
    """Check that children come after their parents and exist, and that every split looks at a column that exists."""
    numpy = importlib.import_module("numpy")
    positions = numpy.arange(len(left))
    leaf = left == -1
    inner = (left > positions) & (left < len(left)) & (right > positions) & (right < len(left))
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

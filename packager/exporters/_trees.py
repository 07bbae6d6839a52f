# SPDX-License-Identifier: Apache-2.0
"""Trees of scikit-learn as ONNX ensembles that decide exactly as scikit-learn does; handed to `skl2onnx` as converters.

Its own converters lose three things that show in labels: which way a missing value goes at each node; the votes of a
forest, which are added as float32 fractions, so that a tie falls to the wrong side; and thresholds of histogram
boosting, which are rounded to the nearest float32. Here all is binary64, as in scikit-learn: thresholds, leaves and
sums, in the order of the trees. Inputs are cast to float32 first where scikit-learn does that.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from packager.errors import StepError
from packager.exporters import _boosted
from packager.exporters._boosted import Ensemble, Tree

_ML = "ai.onnx.ml"
_FLOAT, _INT64, _STRING, _DOUBLE = 1, 7, 8, 11  # of onnx.TensorProto


def converters() -> dict[type, Callable[[Any, Any, Any], None]]:
    """Return the converters by class, as `convert_sklearn(custom_conversion_functions=…)` takes them."""
    ensemble, tree = importlib.import_module("sklearn.ensemble"), importlib.import_module("sklearn.tree")
    voting = (
        tree.DecisionTreeClassifier, tree.ExtraTreeClassifier,
        ensemble.RandomForestClassifier, ensemble.ExtraTreesClassifier,
    )  # fmt: skip
    averaging = (
        tree.DecisionTreeRegressor, tree.ExtraTreeRegressor,
        ensemble.RandomForestRegressor, ensemble.ExtraTreesRegressor,
    )  # fmt: skip
    return {
        **dict.fromkeys(voting, _voting),
        **dict.fromkeys(averaging, _averaging),
        ensemble.GradientBoostingClassifier: _boosted_classes,
        ensemble.GradientBoostingRegressor: _boosted_numbers,
        ensemble.HistGradientBoostingClassifier: _boosted_classes,
        ensemble.HistGradientBoostingRegressor: _boosted_numbers,
        **dict.fromkeys(_boosted.classes()["classes"], _boosted_classes),
        **dict.fromkeys(_boosted.classes()["numbers"], _boosted_numbers),
    }


def _raw_scores(kind: type) -> dict[str, list[bool]]:
    """Return the option by which a calibration asks for sums instead of probabilities, where there are any."""
    return {"raw_scores": [True, False]} if hasattr(kind, "decision_function") else {}


def register() -> None:
    """Tell `skl2onnx` of the boosters of other libraries, so that it can take them for steps of a pipeline."""
    tools = importlib.import_module("skl2onnx")
    shapes = importlib.import_module("skl2onnx.common.shape_calculator")
    found = _boosted.classes()
    for kind in found["classes"]:
        tools.update_registered_converter(
            kind, f"Boosted{kind.__name__}", shapes.calculate_linear_classifier_output_shapes, _boosted_classes,
            overwrite=True, options={"zipmap": [True, False], "nocl": [True, False], **_raw_scores(kind)},
        )  # fmt: skip
    for kind in found["numbers"]:
        tools.update_registered_converter(
            kind, f"Boosted{kind.__name__}", shapes.calculate_linear_regressor_output_shapes, _boosted_numbers,
            overwrite=True,
        )  # fmt: skip


# -- trees of an estimator


def _grown(estimators: Iterable[Any], scale: float = 1.0, target: int = 0) -> list[Tree]:
    return [_tree(item.tree_, scale, target) for item in estimators]


def _tree(tree: Any, scale: float, target: int) -> Tree:
    left = tree.children_left
    nodes = tree.__getstate__()["nodes"]
    known = "missing_go_to_left" in nodes.dtype.names  # trees of scikit-learn before 1.3 take no missing values
    missing = nodes["missing_go_to_left"].astype(bool) if known else left < -1
    values = tree.value.reshape(len(left), -1)
    sums = values.sum(axis=1, keepdims=True)
    if tree.max_n_classes > 1 and abs(sums - 1).max() > 1e-6:  # until 1.3 they are counts, which prediction divides
        values = values / sums
    values = values * scale if scale != 1.0 else values
    return Tree(left == -1, tree.feature, tree.threshold, left, tree.children_right, missing, values, target)


def _stages(model: Any) -> list[Tree]:
    """Return the trees of a boosted model in the order in which it adds them up."""
    if hasattr(model, "_predictors"):
        stages = enumerate(model._predictors)
        return [_histogram(item, target) for _, stage in stages for target, item in enumerate(stage)]
    rows = [list(enumerate(stage)) for stage in model.estimators_]
    return [_tree(item.tree_, float(model.learning_rate), target) for row in rows for target, item in row]


def _histogram(predictor: Any, target: int) -> Tree:
    nodes = predictor.nodes
    if nodes["is_categorical"].any():
        raise StepError("the model splits on categories, which has no ONNX form here", hint="encode them as numbers")
    leaf = nodes["is_leaf"].astype(bool)
    missing = nodes["missing_go_to_left"].astype(bool)
    left, right = nodes["left"].astype("int64"), nodes["right"].astype("int64")
    values = nodes["value"].reshape(-1, 1)
    return Tree(leaf, nodes["feature_idx"], nodes["num_threshold"], left, right, missing, values, target)


def _initial(model: Any) -> list[float]:
    """Return the constant that boosting starts from, by target. Raises StepError where it depends on the input."""
    numpy = importlib.import_module("numpy")
    if hasattr(model, "_baseline_prediction"):
        return [float(value) for value in numpy.asarray(model._baseline_prediction).ravel()]
    if not (isinstance(model.init_, str) or type(model.init_).__module__ == "sklearn.dummy"):
        raise StepError("the boosted model starts from another model, which has no ONNX form", hint="use `init=None`")
    start = model._raw_predict_init(numpy.zeros((1, model.n_features_in_), dtype="float32"))
    return [float(value) for value in start.ravel()]


# -- writing


@dataclass(frozen=True, slots=True)
class _Graph:
    """Where a converter of `skl2onnx` writes nodes and constants."""

    scope: Any
    container: Any

    def add(
        self, kind: str, inputs: Sequence[str], output: str | None = None, domain: str = "", **attributes: Any
    ) -> str:
        """Add a node with one output; return its name."""
        name = output or self.scope.get_unique_variable_name(kind.lower())
        version = 3 if domain else None
        self.node(kind, inputs, [name], domain, version, attributes)
        return name

    def node(
        self,
        kind: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        domain: str,
        version: int | None,
        attributes: Any,
    ) -> None:
        named = {"name": self.scope.get_unique_operator_name(kind), **attributes}
        opset = version or self.container.target_opset_any_domain("")
        self.container.add_node(kind, list(inputs), list(outputs), op_domain=domain, op_version=opset, **named)

    def give(self, name: str, variable: Any) -> None:
        """Write a float32 result to an output of the operator, in the type that `skl2onnx` expects there."""
        wanted = _DOUBLE if type(variable.type).__name__ == "DoubleTensorType" else _FLOAT
        self.add("Cast", [name], variable.full_name, to=wanted)

    def constant(self, kind: int, dims: Sequence[int], values: Sequence[Any]) -> str:
        name = str(self.scope.get_unique_variable_name("constant"))
        self.container.add_initializer(name, kind, list(dims), list(values))
        return name


def _given(graph: _Graph, operator: Any, *, float32: bool) -> str:
    """Return the input as binary64; scikit-learn's own trees see it rounded to float32, histogram boosting does not."""
    name = operator.inputs[0].full_name
    if float32:
        name = graph.add("Cast", [name], to=_FLOAT)
        # onnxruntime 1.15 takes two casts in a row for none, and forgets the rounding; this keeps them apart
        name = graph.add("Reshape", [name, graph.constant(_INT64, [2], [0, -1])])
    return graph.add("Cast", [name], to=_DOUBLE)


def _nodes(trees: Sequence[Tree]) -> dict[str, Any]:
    """Return the attributes that describe the splits of an ensemble."""
    numpy, helper = importlib.import_module("numpy"), importlib.import_module("onnx.helper")
    joined = {
        field: numpy.concatenate([numpy.asarray(getattr(tree, field)) for tree in trees])
        for field in ("leaf", "feature", "threshold", "left", "right", "missing")
    }
    leaf = joined["leaf"].astype(bool)

    def inner(field: str) -> list[int]:
        return numpy.where(leaf, 0, joined[field]).astype("int64").tolist()

    values = numpy.where(leaf, 0.0, joined["threshold"]).astype("float64")
    return {
        "nodes_treeids": [number for number, tree in enumerate(trees) for _ in range(len(tree.leaf))],
        "nodes_nodeids": [node for tree in trees for node in range(len(tree.leaf))],
        "nodes_featureids": inner("feature"),
        "nodes_modes": ["LEAF" if end else "BRANCH_LEQ" for end in leaf.tolist()],
        "nodes_values_as_tensor": helper.make_tensor("values", _DOUBLE, [len(values)], values.tolist()),
        "nodes_truenodeids": inner("left"),
        "nodes_falsenodeids": inner("right"),
        "nodes_missing_value_tracks_true": inner("missing"),
    }


def _leaves(trees: Sequence[Tree], owner: str, *, every: bool) -> dict[str, Any]:
    """Return the attributes that describe the leaves. Zeros are left out, unless `every` is set and it is the first."""
    numpy, helper = importlib.import_module("numpy"), importlib.import_module("onnx.helper")
    rows: list[tuple[int, int, int]] = []
    weights: list[float] = []
    for number, tree in enumerate(trees):
        for node in numpy.flatnonzero(tree.leaf).tolist():
            for place, weight in enumerate(tree.values[node].tolist()):
                if weight or not every or number == 0:
                    rows.append((number, node, tree.target + place))
                    weights.append(weight)
    return {
        f"{owner}_treeids": [row[0] for row in rows],
        f"{owner}_nodeids": [row[1] for row in rows],
        f"{owner}_ids": [row[2] for row in rows],
        f"{owner}_weights_as_tensor": helper.make_tensor("weights", _DOUBLE, [len(weights)], weights),
    }


def _voting(scope: Any, operator: Any, container: Any) -> None:
    """Add up the votes, take the label from the exact sums, then divide.

    Between two classes ONNX Runtime does not compare the sums but looks whether one is above 0.5. So there is always
    one class more, which nobody votes for.
    """
    model, graph = operator.raw_operator, _Graph(scope, container)
    if model.n_outputs_ != 1:
        raise StepError("the model answers several questions at once, which has no ONNX form here", hint="split it")
    trees = _grown(getattr(model, "estimators_", [model]))
    sums, place = scope.get_unique_variable_name("votes"), scope.get_unique_variable_name("place")
    count = len(model.classes_)
    leaves = _leaves([_with_nobody(trees[0]), *trees[1:]], "class", every=True)
    attributes = {**_nodes(trees), **leaves, "classlabels_int64s": list(range(count + 1)), "post_transform": "NONE"}
    graph.node("TreeEnsembleClassifier", [_given(graph, operator, float32=True)], [place, sums], _ML, 3, attributes)
    _write_labels(graph, operator, place)
    start, end, axis = (graph.constant(_INT64, [1], [value]) for value in (0, count, 1))
    kept = graph.add("Slice", [sums, start, end, axis])
    divided = graph.add("Div", [kept, graph.constant(_FLOAT, [1], [float(len(trees))])])
    graph.give(divided, operator.outputs[1])


def _with_nobody(tree: Tree) -> Tree:
    numpy = importlib.import_module("numpy")
    return replace(tree, values=numpy.pad(tree.values, ((0, 0), (0, 1)), constant_values=-1.0))


def _write_labels(graph: _Graph, operator: Any, place: str) -> None:
    """Write the label of each row, given the places of the labels among the classes."""
    classes = operator.raw_operator.classes_
    text = classes.dtype.kind in "OUT"
    labels = [str(item).encode() if text else int(item) for item in classes]
    known = graph.constant(_STRING if text else _INT64, [len(labels)], labels)
    graph.add("Gather", [known, place], operator.outputs[0].full_name, axis=0)


def _sum(
    graph: _Graph, operator: Any, trees: Sequence[Tree], targets: int, *, rounded: bool = True, **more: Any
) -> str:
    """Return the float32 result of an ensemble that was added up in binary64."""
    attributes = {**_nodes(trees), **_leaves(trees, "target", every=False), "n_targets": targets, **more}
    return graph.add("TreeEnsembleRegressor", [_given(graph, operator, float32=rounded)], domain=_ML, **attributes)


def _averaging(scope: Any, operator: Any, container: Any) -> None:
    model, graph = operator.raw_operator, _Graph(scope, container)
    trees = _grown(getattr(model, "estimators_", [model]))
    found = _sum(graph, operator, trees, trees[0].values.shape[1], aggregate_function="AVERAGE")
    graph.give(found, operator.outputs[0])


def ensemble(model: Any) -> Ensemble:
    """Return a boosted model of any of the libraries in the common form."""
    if _boosted.is_foreign(model):
        return _boosted.read(model)
    return Ensemble(_stages(model), _initial(model), _link(model), rounded=not hasattr(model, "_predictors"))


def _link(model: Any) -> str:
    loss, link = type(model._loss).__name__, type(getattr(model._loss, "link", None)).__name__
    known = {"HalfBinomialLoss": "logistic", "HalfMultinomialLoss": "softmax"}
    known |= {"BinomialDeviance": "logistic", "MultinomialDeviance": "softmax"}  # as they were called before 1.4
    if importlib.import_module("sklearn.base").is_classifier(model):
        if loss not in known:
            raise StepError(
                f"the boosted model has the loss `{loss}`, which has no ONNX form here", hint="use `log_loss`"
            )
        return known[loss]
    if link not in ("IdentityLink", "LogLink", "NoneType"):  # losses before 1.4 have no link: it is the identity
        raise StepError(f"the loss of the boosted model has the link `{link}`, which has no ONNX form here")
    return "exp" if link == "LogLink" else "identity"


def _raw(graph: _Graph, operator: Any, found: Ensemble) -> str:
    """Return the sum of a boosted model with the constant it starts from."""
    helper = importlib.import_module("onnx.helper")
    base = helper.make_tensor("base", _DOUBLE, [len(found.base)], found.base)
    return _sum(graph, operator, found.trees, len(found.base), rounded=found.rounded, base_values_as_tensor=base)


def _boosted_numbers(scope: Any, operator: Any, container: Any) -> None:
    graph, found = _Graph(scope, container), ensemble(operator.raw_operator)
    raw = _raw(graph, operator, found)
    finish = {"exp": "Exp", "logistic": "Sigmoid"}.get(found.link)
    graph.give(graph.add(finish, [raw]) if finish else raw, operator.outputs[0])


def _boosted_classes(scope: Any, operator: Any, container: Any) -> None:
    model, graph = operator.raw_operator, _Graph(scope, container)
    found = ensemble(model)
    raw = _raw(graph, operator, found)
    foreign = _boosted.is_foreign(model)
    scores = (not foreign or _raw_scores(type(model))) and container.get_options(model, {"raw_scores": False}).get(
        "raw_scores"
    )
    if found.link == "softmax":
        graph.give(raw if scores else graph.add("Softmax", [raw], axis=1), operator.outputs[1])
        place = graph.add("ArgMax", [raw], axis=1, keepdims=0)
    else:
        one = graph.constant(_FLOAT, [1], [1.0])
        yes = raw if scores else graph.add("Sigmoid", [raw])
        no = graph.add("Neg", [raw]) if scores else graph.add("Sub", [one, yes])
        graph.give(graph.add("Concat", [no, yes], axis=1), operator.outputs[1])
        inclusive = not hasattr(model, "_predictors") and not foreign
        place = _above_zero(graph, raw, inclusive=inclusive)
    _write_labels(graph, operator, place)


def _above_zero(graph: _Graph, raw: str, *, inclusive: bool) -> str:
    """Return the place of the label of each row: gradient boosting says yes at zero, histogram boosting says no."""
    flat = graph.add("Reshape", [raw, graph.constant(_INT64, [1], [-1])])
    zero = graph.constant(_FLOAT, [1], [0.0])
    above = graph.add("GreaterOrEqual" if inclusive else "Greater", [flat, zero])
    return graph.add("Cast", [above], to=_INT64)

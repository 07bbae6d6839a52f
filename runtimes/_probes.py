# SPDX-License-Identifier: Apache-2.0
"""The graphs that a version of a runtime is measured with: one node for every operator, version and element type.

Whether such a graph works is what counts, not which kernels are listed: runtimes insert casts for kernels they lack
and take apart operators that are functions. `onnx` says which operators exist; nothing here is typed by hand but the
few attributes that cannot be guessed.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from packager.runtimes._trials import Trial, pack_arrays

from packager.graph import canonicalise

OLDEST_OPSET = 7  # what the oldest measured version still reads
IR = 8
BEYOND = 40  # opsets and IR versions up to here are tried
_MOST = 260  # combinations of element types of one operator; above it they are varied one after the other
_NUMBERS = (
    "float32",
    "int64",
    "float64",
    "float16",
    "bfloat16",
    "int32",
    "int16",
    "int8",
    "uint64",
    "uint32",
    "uint16",
    "uint8",
    "bool",
    "string",
)
_PACKED = ("int4", "uint4")  # only where quantisation meets them
_QUANTISED = {"QuantizeLinear", "DequantizeLinear", "Cast"}
_FLOW = ("If", "Loop", "Scan")
_NESTED = ("float32", "int64", "string")
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "output_datatype")
_ATTRIBUTES: Mapping[str, Mapping[str, Any]] = {  # what cannot be guessed from the kind of an attribute
    "Attention": {"q_num_heads": 1, "kv_num_heads": 1},
    "BitShift": {"direction": "LEFT"},
    "DepthToSpace": {"blocksize": 1},
    "Einsum": {"equation": "...->..."},
    "FeatureVectorizer": {"inputdimensions": [2]},
    "GRU": {"hidden_size": 1},
    "GroupNormalization": {"num_groups": 1},
    "LSTM": {"hidden_size": 1},
    "LinearClassifier": {"coefficients": [1.0, 1.0], "intercepts": [0.0, 0.0]},
    "LinearRegressor": {"coefficients": [1.0], "intercepts": [0.0]},
    "OneHotEncoder": {"cats_int64s": [0, 1]},
    "CategoryMapper": {"cats_int64s": [0], "cats_strings": ["a"]},
    "DictVectorizer": {"string_vocabulary": ["a"]},
    "Imputer": {"imputed_value_floats": [0.0], "replaced_value_float": 1.0},
    "RNN": {"hidden_size": 1},
    "RegexFullMatch": {"pattern": "a"},
    "Scaler": {"offset": [0.0], "scale": [1.0]},
    "SpaceToDepth": {"blocksize": 1},
    "StringNormalizer": {"case_change_action": "LOWER"},
    "TfIdfVectorizer": {
        "mode": "TF",
        "min_gram_length": 1,
        "max_gram_length": 1,
        "max_skip_count": 0,
        "ngram_counts": [0],
        "ngram_indexes": [0],
        "pool_int64s": [1],
    },
    "TreeEnsembleClassifier": {
        "nodes_treeids": [0],
        "nodes_nodeids": [0],
        "nodes_featureids": [0],
        "nodes_modes": ["LEAF"],
        "nodes_values": [0.0],
        "nodes_truenodeids": [0],
        "nodes_falsenodeids": [0],
        "nodes_missing_value_tracks_true": [0],
        "class_treeids": [0],
        "class_nodeids": [0],
        "class_ids": [0],
        "class_weights": [1.0],
    },
    "TreeEnsembleRegressor": {
        "nodes_treeids": [0],
        "nodes_nodeids": [0],
        "nodes_featureids": [0],
        "nodes_modes": ["LEAF"],
        "nodes_values": [0.0],
        "nodes_truenodeids": [0],
        "nodes_falsenodeids": [0],
        "nodes_missing_value_tracks_true": [0],
        "target_treeids": [0],
        "target_nodeids": [0],
        "target_ids": [0],
        "target_weights": [1.0],
        "n_targets": 1,
    },
    "SVMClassifier": {"kernel_type": "LINEAR", "coefficients": [1.0], "rho": [0.0], "kernel_params": [1.0, 0.0, 3.0]},
    "SVMRegressor": {"kernel_type": "LINEAR", "coefficients": [1.0], "rho": [0.0], "kernel_params": [1.0, 0.0, 3.0]},
}
_LABELS = {  # of LabelEncoder: the attributes follow the types
    "int64": ("int64s", [1]),
    "float32": ("floats", [1.0]),
    "string": ("strings", ["a"]),
}
_CLASSES = {"TreeEnsembleClassifier": "int64s", "ZipMap": "int64s", "LinearClassifier": "ints", "SVMClassifier": "ints"}
VARIANTS = ((True, None), (False, None), (False, 2), (False, 4), (False, 3), (False, 1), (True, 2), (True, 4))
"""How to feed a node: also its optional inputs or not, and the rank that is stated; tried in this order."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One operator of one version with one choice of element types, written as in a contract: `T=float32`."""

    domain: str
    operator: str
    since: int
    types: str

    @property
    def opset(self) -> int:
        """The lowest opset of its domain in which a measured runtime meets this form of the operator."""
        return self.since if self.domain else max(self.since, OLDEST_OPSET)

    @property
    def words(self) -> str:
        """The words for it that knowledge files use."""
        return f"{self.domain or 'ai.onnx'} {self.operator} {self.since} {self.types}".rstrip()


def list_probes() -> list[Probe]:
    """Return all probes that this version of `onnx` knows, sorted."""
    schemas = [
        s for s in canonicalise.import_onnx().defs.get_all_schemas_with_history() if s.domain in ("", "ai.onnx.ml")
    ]
    newest: dict[tuple[str, str], list[int]] = {}
    for schema in schemas:
        newest.setdefault((schema.domain, schema.name), []).append(schema.since_version)
    found = []
    for schema in schemas:
        later = [v for v in newest[schema.domain, schema.name] if v > schema.since_version]
        hidden = not schema.domain and later and min(later) <= OLDEST_OPSET
        if not (schema.deprecated or hidden or (has_subgraph(schema) and schema.name not in _FLOW)):
            found += [Probe(schema.domain, schema.name, schema.since_version, text) for text in _choices(schema)]
    return sorted(found, key=lambda probe: (probe.domain, probe.operator, probe.since, probe.types))


def has_subgraph(schema: Any) -> bool:
    """Return whether an operator controls the flow: its kernels take every type; what is inside is judged itself."""
    return any(attribute.type == schema.AttrType.GRAPH for attribute in schema.attributes.values())


def _choices(schema: Any) -> Iterator[str]:
    if has_subgraph(schema):
        yield ""
        return
    if schema.name == "StringNormalizer":  # fails where the host lacks its locale; only this one is everywhere
        yield "locale=C.UTF-8"
        return
    used = {part.type_str for part in (*schema.inputs, *_needed_outputs(schema))}
    names = [c.type_param_str for c in schema.type_constraints if c.type_param_str in used]
    allowed = {c.type_param_str: _allowed(c, schema.name) for c in schema.type_constraints}
    lists = [allowed[name] for name in names]
    total = 1
    for options in lists:
        total *= len(options)
    if total <= _MOST:
        rows: set[tuple[str, ...]] = set(itertools.product(*lists))
    else:
        base = tuple(options[0] for options in lists)
        rows = {(*base[:i], option, *base[i + 1 :]) for i, options in enumerate(lists) for option in options}
    for row in sorted(rows):
        yield ";".join(f"{name}={option}" for name, option in zip(names, row, strict=True))


def _allowed(constraint: Any, operator: str) -> list[str]:
    wanted = (*_NUMBERS, *(_PACKED if operator in _QUANTISED else ()))
    found = [canonicalise.type_name(text) for text in constraint.allowed_type_strs]
    simple = [name for name in wanted if name in found]
    return simple + [n for n in found if "(" in n and (n.startswith("seq(map") or n[:-1].split("(")[-1] in _NESTED)]


def _needed_outputs(schema: Any) -> list[Any]:
    optional = schema.FormalParameterOption.Optional
    return [part for part in schema.outputs if part.option != optional]


def serialise_graph(probe: Probe, *, optional: bool, rank: int | None) -> bytes:
    """Return the serialised graph of a probe."""
    onnx = canonicalise.import_onnx()
    if probe.operator in _FLOW:
        return _flow(probe)
    schema = onnx.defs.get_schema(probe.operator, probe.since, probe.domain)
    bound = dict(part.split("=", 1) for part in probe.types.split(";")) if probe.types else {}
    sources = [part for part in schema.inputs if optional or part.option != schema.FormalParameterOption.Optional]
    inputs = [
        (f"i{n}", make_type(bound.get(p.type_str) or canonicalise.type_name(p.type_str), rank))
        for n, p in enumerate(sources)
    ]
    outputs = [
        (f"o{n}", make_type(bound.get(p.type_str) or canonicalise.type_name(p.type_str), None))
        for n, p in enumerate(_needed_outputs(schema))
    ]
    node = onnx.helper.make_node(probe.operator, [n for n, _ in inputs], [n for n, _ in outputs], domain=probe.domain)
    node.attribute.extend(_attributes(schema, bound))
    ports = [[onnx.helper.make_value_info(name, kind) for name, kind in part] for part in (inputs, outputs)]
    imports = [onnx.helper.make_opsetid(probe.domain, probe.opset)]
    if probe.domain:
        imports.append(onnx.helper.make_opsetid("", 15))
    made = onnx.helper.make_model(
        onnx.helper.make_graph([node], "probe", ports[0], ports[1]), opset_imports=imports, ir_version=IR
    )
    data: bytes = made.SerializeToString(deterministic=True)
    return data


def _flow(probe: Probe) -> bytes:
    """Return a graph of If, Loop or Scan around an Identity: what they need besides is the business of the inside."""
    helper, kinds = canonicalise.import_onnx().helper, canonicalise.import_onnx().TensorProto
    floats = [helper.make_tensor_value_info(name, kinds.FLOAT, [2]) for name in ("a", "b", "x", "y")]
    count = helper.make_tensor_value_info("n", kinds.INT64, [])
    going = [helper.make_tensor_value_info(name, kinds.BOOL, []) for name in ("c", "d", "e")]
    if probe.operator == "If":
        branch = helper.make_graph([helper.make_node("Identity", ["x"], ["a"])], "branch", [], floats[:1])
        node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
        inputs = [going[0], floats[2]]
    elif probe.operator == "Loop":
        nodes = [helper.make_node("Identity", ["d"], ["e"]), helper.make_node("Identity", ["a"], ["b"])]
        step = helper.make_tensor_value_info("i", kinds.INT64, [])
        body = helper.make_graph(nodes, "body", [step, going[1], floats[0]], [going[2], floats[1]])
        node, inputs = helper.make_node("Loop", ["n", "c", "x"], ["y"], body=body), [count, going[0], floats[2]]
    else:
        one, two = (helper.make_tensor_value_info(name, kinds.FLOAT, []) for name in ("a", "b"))
        body = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "body", [one], [two])
        node, inputs = helper.make_node("Scan", ["x"], ["y"], body=body, num_scan_inputs=1), [floats[2]]
    made = helper.make_model(
        helper.make_graph([node], "probe", inputs, floats[3:]),
        opset_imports=[helper.make_opsetid("", probe.opset)],
        ir_version=IR,
    )
    data: bytes = made.SerializeToString(deterministic=True)
    return data


def make_type(name: str, rank: int | None) -> Any:
    helper = canonicalise.import_onnx().helper
    kind, _, inner = name.partition("(")
    inner = inner.removesuffix(")")
    if not inner:
        return helper.make_tensor_type_proto(find_type_number(name), None if rank is None else [2] * rank)
    if kind == "seq":
        return helper.make_sequence_type_proto(make_type(inner, None))
    if kind == "optional":
        return helper.make_optional_type_proto(make_type(inner, None))
    key, value = inner.split(",", 1)
    return helper.make_map_type_proto(find_type_number(key), make_type(value, None))


def find_type_number(name: str) -> int:
    return int(getattr(canonicalise.import_onnx().TensorProto, canonicalise.ONNX_NAMES.get(name, name).upper()))


def _attributes(schema: Any, bound: Mapping[str, str]) -> list[Any]:
    helper = canonicalise.import_onnx().helper
    given = dict(_ATTRIBUTES.get(schema.name, {}))
    if schema.name == "LabelEncoder" and schema.since_version > 1:
        for side, parameter in (("keys", "T1"), ("values", "T2")):
            suffix, values = _LABELS.get(bound[parameter], ("", []))
            given |= {f"{side}_{suffix}": values} if values else {f"{side}_tensor": _tensor(bound[parameter])}
    if "locale" in bound:
        given["locale"] = bound["locale"]
    if schema.name in _CLASSES:
        text = "string" in bound.get(schema.outputs[0].type_str, "")
        given["classlabels_strings" if text else f"classlabels_{_CLASSES[schema.name]}"] = (
            ["a", "b"] if text else [0, 1]
        )
    for name, attribute in schema.attributes.items():
        if name in _TYPE_ATTRIBUTES and (result := bound.get(schema.outputs[0].type_str)):
            given[name] = find_type_number(result.removeprefix("seq(").removesuffix(")"))
        elif name == "value" and schema.name in ("Constant", "ConstantOfShape"):
            given[name] = _tensor(bound[schema.outputs[0].type_str])
        elif attribute.required and name not in given:
            given[name] = _guess(str(attribute.type).rpartition(".")[2])
    return [helper.make_attribute(key, value) for key, value in given.items() if key in schema.attributes]


def _tensor(name: str) -> Any:
    tensor = canonicalise.import_onnx().TensorProto(data_type=find_type_number(name), dims=[1], name="value")
    if name == "string":
        tensor.string_data.append(b"a")
    else:
        size = {"bool": 1, "8": 1, "6": 2, "2": 4, "4": 8}["bool" if name == "bool" else name[-1]]
        tensor.raw_data = b"\0" * size
    return tensor


def _guess(kind: str) -> Any:
    guesses = {"INT": 1, "INTS": [1, 1], "FLOAT": 1.0, "FLOATS": [1.0], "STRING": "a", "STRINGS": ["a"]}
    return guesses.get(kind, _tensor("float32"))


def make_gate_graphs() -> dict[tuple[str, int], bytes]:
    """Return a trivial graph for every operator set (`ai.onnx`, `ai.onnx.ml`) and IR version (`ir`) there may be.

    Some are newer than this `onnx` knows: a runtime says itself up to which it reads.
    """
    onnx = canonicalise.import_onnx()
    found = {("ai.onnx", version): _trivial({"": version}, IR) for version in range(OLDEST_OPSET, BEYOND)}
    newest = onnx.defs.onnx_ml_opset_version() if hasattr(onnx.defs, "onnx_ml_opset_version") else 5
    found |= {("ai.onnx.ml", v): _trivial({"": 15, "ai.onnx.ml": v}, IR) for v in range(1, max(newest, 5) + 3)}
    return found | {("ir", version): _trivial({"": 15}, version) for version in range(3, BEYOND)}


def trivial_run() -> Trial:
    """Return a graph that every version runs, with its input: wheels built for another numpy crash on arrays."""
    numpy = importlib.import_module("numpy")
    return Trial(_trivial({"": 13}, IR), pack_arrays({"x": numpy.ones((1, 2), "float32")}))


def _trivial(opsets: Mapping[str, int], ir: int) -> bytes:
    helper, kind = canonicalise.import_onnx().helper, canonicalise.import_onnx().TensorProto.FLOAT
    nodes = [helper.make_node("Relu", ["x"], ["r"])]
    last = "r"
    if "ai.onnx.ml" in opsets:
        nodes.append(helper.make_node("Normalizer", ["r"], ["n"], domain="ai.onnx.ml", norm="L2"))
        last = "n"
    ports = [helper.make_tensor_value_info(name, kind, [1, 2]) for name in ("x", last)]
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    made = helper.make_model(helper.make_graph(nodes, "gate", ports[:1], ports[1:]), opset_imports=imports)
    made.ir_version = ir
    data: bytes = made.SerializeToString(deterministic=True)
    return data

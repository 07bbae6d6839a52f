# SPDX-License-Identifier: Apache-2.0
"""Rewrites of a graph that ONNX Runtime's own tools do: simplified once and for all, or quantised to eight bits.

Quantised weights have seven bits, per channel: with eight, the instructions of CPUs before VNNI saturate in the middle
of a sum, and the same file gives worse answers on a customer's older machine (ONNX Runtime's quantisation guide).
"""

from __future__ import annotations

import importlib
import logging
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from packager.runtimes import _precision

from packager import error_causes
from packager.errors import MissingToolError, StepError
from packager.graph import canonicalise

_STATIC = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""What takes the time. Quantising sums, pools and reshapes in between too was hardly faster for a ResNet-50 (16.5 ms
beside 17.7, and 37 in fp32), and twice as wrong for a sentence encoder."""
_DYNAMIC = ("MatMul", "Gemm", "Gather")
"""Not Conv: quantised at run time it is slower than fp32, and the oldest versions lack it for signed weights."""
_BITS = 8  # of the mantissa of a range that are kept; the host's CPU decides about the last of its 24


def optimised(source: Path) -> Any:
    """Return the graph as the runtime's basic optimisers leave it. They compute no constants, so no CPU shows."""
    runtime = _tool("onnxruntime")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "optimised.onnx"
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(file)
        options.log_severity_level = 4
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        try:
            runtime.InferenceSession(
                str(source), options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantFolding"]
            )
        except Exception as error:  # the runtime's exceptions share no class
            raise StepError(
                f"onnxruntime cannot optimise the graph: {error_causes.find_cause_line(str(error))}"
            ) from error
        return canonicalise.read(file)


def dynamic(model: Any) -> Any:
    """Quantise the weights of matrix products and tables; activations follow at run time."""
    tool = _tool("onnxruntime.quantization.onnx_quantizer")
    kinds = _tool("onnxruntime.quantization")
    quantizer = tool.ONNXQuantizer(
        model,
        True,
        True,
        kinds.quant_utils.QuantizationMode.IntegerOps,
        False,
        kinds.QuantType.QInt8,
        kinds.QuantType.QUInt8,
        None,
        None,
        [],
        list(_DYNAMIC),
        {"MatMulConstBOnly": True},
    )
    return _quantised(quantizer)


def static(model: Any, source: Path, batches: Callable[[], Iterable[Mapping[str, Any]]]) -> Any:
    """Quantise weights and activations; the ranges of these are what `batches` showed, rounded outwards."""
    if not any(node.op_type in _STATIC for node in model.graph.node):
        raise _nothing()  # before data is requested, which such models often cannot give
    tool = _tool("onnxruntime.quantization.qdq_quantizer")
    kinds = _tool("onnxruntime.quantization")
    ranges = _ranges(source, batches())
    quantizer = tool.QDQQuantizer(
        model,
        True,
        True,
        kinds.QuantType.QInt8,
        kinds.QuantType.QUInt8,
        ranges,
        None,
        [],
        list(_STATIC),
        {"WeightSymmetric": True},
    )
    return _quantised(quantizer)


def _quantised(quantizer: Any) -> Any:
    logging.getLogger().setLevel(logging.ERROR)  # the library logs its advice to the root logger
    try:
        quantizer.quantize_model()
    except Exception as error:  # assertions, ValueError, RuntimeError, onnx's own
        raise StepError(f"the graph cannot be quantised: {error_causes.find_cause_line(str(error))}") from error
    if not any(node.op_type in _CONVERSIONS for node in quantizer.model.model.graph.node):
        raise _nothing()
    _precision.sort(quantizer.model.model.graph)
    return quantizer.model.model


def _nothing() -> StepError:
    return StepError("the graph holds nothing that could be quantised", hint="remove this precision from the recipe")


_CONVERSIONS = {"QuantizeLinear", "DynamicQuantizeLinear", "DequantizeLinear"}


def _ranges(source: Path, batches: Iterable[Mapping[str, Any]]) -> Any:
    """Run the fp32 graph on every batch and return the smallest and largest value of each tensor."""
    calibrate = _tool("onnxruntime.quantization.calibrate")
    numpy = importlib.import_module("numpy")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "model"
        shutil.copytree(source.parent, copy, copy_function=shutil.copyfile)
        augmented = str(Path(folder) / "augmented.onnx")
        try:
            calibrator = calibrate.create_calibrator(
                copy / source.name, list(_STATIC), augmented, use_external_data_format=True
            )
            calibrator.collect_data(_Reader(iter(batches)))
            found = calibrator.compute_data()
        except Exception as error:  # the runtime's exceptions share no class
            raise StepError(f"the graph cannot be calibrated: {error_causes.find_cause_line(str(error))}") from error
    for tensor in found.data.values():
        tensor.lowest, tensor.highest = (
            numpy.full_like(bound, rounded(float(numpy.ravel(bound)[0]), up=up))
            for bound, up in ((tensor.lowest, False), (tensor.highest, True))
        )
    return found


class _Reader:
    """The calibrator's data reader: `get_next` returns the next batch, None after the last."""

    def __init__(self, waiting: Iterator[Mapping[str, Any]]) -> None:
        self._waiting = waiting

    def get_next(self) -> Mapping[str, Any] | None:
        return next(self._waiting, None)


def rounded(bound: float, *, up: bool) -> float:
    """Return the next number with eight bits of mantissa that is not inside of `bound`."""
    if bound == 0 or not math.isfinite(bound):
        return bound
    mantissa, exponent = math.frexp(bound)
    scaled = mantissa * (1 << _BITS)
    return math.ldexp(math.ceil(scaled) if up else math.floor(scaled), exponent - _BITS)


def _tool(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingToolError("onnxruntime", "onnx") from None

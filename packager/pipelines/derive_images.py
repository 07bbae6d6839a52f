# SPDX-License-Identifier: Apache-2.0
"""Derive the pipeline of a model that sees: from the source's image processor and its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from packager.canonical import JSON
from packager.errors import StepError
from packager.pipelines.derive import NO_PIPELINE, TOKENIZER, Derived, derive_answer, derive_labels, derive_text_part
from packager.pipelines.source import Own
from packager.server.pipeline.document import FORMAT
from packager.server.protocol.interface import Interface

_RESAMPLINGS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's numbers, from 0 on


def derive_image(own: Own, processor: Any, spec: Mapping[str, JSON], interface: Interface) -> Derived:
    """Return the pipeline of a model of images. Raises StepError for a processor that does what is not known here."""
    image = _image_part(processor, interface)
    make = _ANSWERS.get(spec["task"], derive_answer)
    return Derived({"format": FORMAT, "task": spec["task"], "image": image, "answer": make(own, spec, interface)}, {})


def derive_choices(own: Own, processor: Any, tokenizer: Any, spec: Mapping[str, JSON], interface: Interface) -> Derived:
    """Return the pipeline of two encoders, of pictures and of texts. Raises StepError."""
    if "logits_per_image" not in [port.name for port in interface.outputs] or own.config().get("model_type") != "clip":
        raise StepError("expected two encoders as CLIP has them, with `logits_per_image`", hint=NO_PIPELINE)
    pictures, texts = (
        replace(interface, inputs=tuple(port for port in interface.inputs if (port.name == "pixel_values") is visual))
        for visual in (True, False)
    )
    text, data = derive_text_part(own, tokenizer, spec, texts)
    answer = {
        "output": "logits_per_image",
        "labels": spec.get("labels", []),
        "template": spec.get("template", _TEMPLATE),
        "top": spec.get("top"),
    }
    image = _image_part(processor, pictures)
    return Derived(
        {"format": FORMAT, "task": spec["task"], "text": text, "image": image, "answer": answer}, {TOKENIZER: data}
    )


_TEMPLATE = "This is a photo of {}."  # the default of transformers' pipeline


def _image_part(processor: Any, interface: Interface) -> JSON:
    port, mask = interface.inputs[0], _mask(interface)
    if len(interface.inputs) != (2 if mask else 1) or len(port.shape) != 4:
        raise StepError("expected a model with one input of images", hint=NO_PIPELINE)
    if getattr(processor, "pad_size", None) or (getattr(processor, "do_pad", False) and not _fills(processor)):
        raise StepError("the image processor pads images, which is not known here", hint=NO_PIPELINE)
    channels = port.shape[1] if isinstance(port.shape[1], int) else 3
    normal = bool(getattr(processor, "do_normalize", False))
    return {
        "input": port.name,
        "channels": channels,
        **_sizes(processor),
        "resampling": _RESAMPLINGS[int(getattr(processor, "resample", 2) or 0)],
        "crop": _size(processor.crop_size) if getattr(processor, "do_center_crop", False) else None,
        "scale": float(processor.rescale_factor) if getattr(processor, "do_rescale", False) else None,
        "mean": _channels(processor.image_mean, channels) if normal else [],
        "deviation": _channels(processor.image_std, channels) if normal else [],
        **({"mask": mask} if mask else {}),
    }


def _mask(interface: Interface) -> str | None:
    return next((port.name for port in interface.inputs if port.name == "pixel_mask"), None)


def _fills(processor: Any) -> bool:
    """Say whether a processor pads pictures to the largest of those it is given, as DETR's does: one is not padded."""
    return "pixel_mask" in getattr(processor, "model_input_names", ())


def _sizes(processor: Any) -> dict[str, JSON]:
    if not getattr(processor, "do_resize", False):
        return {"size": None}
    table = {name: int(value) for name, value in dict(processor.size).items() if value}
    if set(table) != {"shortest_edge", "longest_edge"}:
        return {"size": _size(processor.size)}
    multiple = _MULTIPLES.get(type(processor).__name__.removesuffix("Fast").removesuffix("Pil"), 1)
    found = {"size": [table["shortest_edge"]], "longest": table["longest_edge"]}
    return {**found, "multiple": multiple} if multiple > 1 else found


_MULTIPLES = {"YolosImageProcessor": 16}  # what a processor rounds edges down to, which its configuration does not say


def _boxes(own: Own, spec: Mapping[str, JSON], interface: Interface) -> JSON:
    outputs = [port.name for port in interface.outputs]
    if not {"logits", "pred_boxes"} <= {*outputs}:
        raise StepError(f"the model has no scores and boxes, it returns {outputs}", hint=NO_PIPELINE)
    labels, size = spec.get("labels") or own.labels(), _last(interface, "logits")
    function = spec.get("function") or ("sigmoid" if size == len(labels) else "softmax")
    return {
        "scores": "logits",
        "boxes": "pred_boxes",
        "function": function,
        "labels": derive_labels(own, spec, interface, "logits", more=int(function == "softmax")),
        "threshold": spec.get("threshold", 0.5),
    }


def _last(interface: Interface, output: str) -> int | str:
    return next(port.shape[-1] for port in interface.outputs if port.name == output)


def _regions(own: Own, spec: Mapping[str, JSON], interface: Interface) -> JSON:
    outputs = [port.name for port in interface.outputs]
    if "logits" not in outputs:
        raise StepError(f"the model has no scores of pixels, it returns {outputs}", hint=NO_PIPELINE)
    return {"output": "logits", "labels": derive_labels(own, spec, interface, "logits", axis=1)}


_ANSWERS = {"object-detection": _boxes, "image-segmentation": _regions}


def _size(size: Any) -> list[int]:
    """Return height and width, or the shorter edge alone. Raises StepError for another rule."""
    table = {name: value for name, value in dict(size).items() if value}
    if set(table) == {"height", "width"}:
        return [int(table["height"]), int(table["width"])]
    if set(table) == {"shortest_edge"}:
        return [int(table["shortest_edge"])]
    raise StepError(f"the image processor resizes by `{sorted(table)}`, which is not known here", hint=NO_PIPELINE)


def _channels(values: Any, channels: int) -> list[float]:
    listed = list(values) if isinstance(values, list | tuple) else [values] * channels
    return [float(value) for value in listed]

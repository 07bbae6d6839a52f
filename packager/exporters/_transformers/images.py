# SPDX-License-Identifier: Apache-2.0
"""The size of images: the one the processor gives them, else the one the model is built for, else a free one.

A processor that keeps the aspect ratio gives images of free size. The bounds of height and width are then the ends
that it states, or what a camera and a backbone make of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from packager.canonical import JSON
from packager.errors import StepError
from packager.exporters._torch import program

HEIGHT, WIDTH = "height", "width"
SMALLEST = 64  # twice the stride of most backbones: one row or column of features is a special case


@dataclass(frozen=True, slots=True)
class Size:
    """Height and width in pixels, or None where the processor leaves them free up to `longest`."""

    fixed: tuple[int, int] | None
    longest: int = 512


def image_sizes(model: Any, processor: Mapping[str, JSON]) -> list[Size]:
    """Return the sizes that images may have, the likeliest first: whether the model takes a free one shows in a run."""
    made, built = _processed(processor), _built_for(model.config)
    if made and made.fixed:
        return [made]
    fixed = [Size(built)] if built else []
    return [made, *fixed] if made else fixed or [Size(None)]


def _processed(processor: Mapping[str, JSON]) -> Size | None:
    """Return the size that the processor gives images, None when nothing is known of a processor."""
    if not any(key in processor for key in ("size", "crop_size", "size_divisor", "do_resize")):
        return None
    crop, size = _pair(processor.get("crop_size")), processor.get("size")
    if crop and processor.get("do_center_crop", True):
        return Size(crop)
    if isinstance(size, dict) and "shortest_edge" in size and "crop_pct" in processor:
        return Size((size["shortest_edge"], size["shortest_edge"]))
    padded = _pair(processor.get("pad_size")) if processor.get("do_pad") else None
    if padded:
        return Size(padded)
    keeps = processor.get("keep_aspect_ratio") or processor.get("max_size") or processor.get("do_resize") is False
    fixed = None if keeps else _pair(size)
    return Size(fixed) if fixed else Size(None, _longest(size, processor.get("max_size")))


def _pair(size: JSON) -> tuple[int, int] | None:
    """Return height and width of a size that states both, by whichever of the three spellings."""
    if isinstance(size, dict):
        return (size["height"], size["width"]) if size.get("height") and size.get("width") else None
    if isinstance(size, int) and not isinstance(size, bool):
        return size, size
    return (size[0], size[1]) if isinstance(size, list | tuple) and len(size) == 2 else None


def _longest(size: JSON, limit: JSON) -> int:
    edges = [value for value in size.values() if isinstance(value, int)] if isinstance(size, dict) else [size, limit]
    return max([512, *(edge for edge in (*edges, limit) if isinstance(edge, int))])


def _built_for(config: Any) -> tuple[int, int] | None:
    for part in (config, getattr(config, "vision_config", None), getattr(config, "backbone_config", None)):
        size = _pair(getattr(part, "image_size", None)) or _pair(getattr(part, "input_size", None))
        if size:
            return size
    return None


def count_channels(model: Any) -> int:
    """Return how many channels images have: what the configuration says, else what the first convolution takes."""
    config = model.config
    for part in (config, getattr(config, "vision_config", None), getattr(config, "backbone_config", None)):
        stated = getattr(part, "num_channels", None)
        if isinstance(stated, int):
            return stated
    first = next((part for part in model.modules() if isinstance(part, program.import_torch().nn.Conv2d)), None)
    if first is None:
        raise StepError(
            "the number of channels of `pixel_values` is neither in the configuration nor in a convolution",
            hint="write its shape under `inputs`: `pixel_values: {dtype: float32, shape: [batch, 3, 224, 224]}`",
        )
    return int(first.in_channels)

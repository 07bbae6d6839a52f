# SPDX-License-Identifier: Apache-2.0
"""The inputs of a model: what its tokenizer and processor make and its `forward` takes, none left out silently.

What a configuration says about an input is written once per name (`_DESCRIBED`). A name that the model needs and that
is not described there is refused, unless the recipe describes it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from packager.canonical import JSON
from packager.errors import StepError
from packager.exporters import BATCH, ExportOptions, Feeds, Port, Range
from packager.exporters._torch import program
from packager.exporters._transformers import images
from packager.exporters._transformers.images import HEIGHT, WIDTH, Size

SEQUENCE, SAMPLES, FRAMES = "sequence", "samples", "frames"
_LONGEST = (1 << 31) - 1
_CODE_POINTS = 0x110000  # which some models hash instead of looking tokens up
_PATCHED = ("max_num_patches", "max_patches", "temporal_patch_size")  # settings of processors that hand out no images
_BY_DEFAULT = ("input_ids", "attention_mask")  # of a text model that has no tokenizer beside it
_MADE = {"token_type_ids", "attention_mask", "pixel_mask", "task_type_ids"}  # by some tokenizers and processors only
_OTHER_SENSES = ("pixel_values", "pixel_mask", "input_features", "input_values")


@dataclass(frozen=True, slots=True)
class Subject:
    """An opened model and what is known of the tokenizer and the processor beside it."""

    model: Any
    tokens: tuple[str, ...] | None
    processor: Mapping[str, JSON]
    size: Size

    @property
    def accepted(self) -> Mapping[str, inspect.Parameter]:
        """Return the parameters of `forward`."""
        found = inspect.signature(self.model.forward).parameters
        return {name: one for name, one in found.items() if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)}

    @property
    def text(self) -> Any:
        """Return the part of the configuration that is about text."""
        return self.model.config.get_text_config()

    @property
    def made(self) -> set[str]:
        """Return the names of what the tokenizer and the processor make."""
        found = set(_BY_DEFAULT if self.tokens is None and "input_ids" in self.accepted else self.tokens or ())
        if self.processor.get("return_attention_mask"):
            found.add("attention_mask")
        return found if self.processor.get("do_pad") is False else found | {"pixel_mask"}


@dataclass(frozen=True, slots=True)
class Inputs:
    """The ports, the limits of their named dimensions, and default ranges for some of those."""

    ports: list[Port]
    limits: Mapping[str, Range]
    spans: Mapping[str, Range]

    def requested(self, options: ExportOptions) -> ExportOptions:
        """Return the options with the default ranges where the recipe has none."""
        used = {axis for port in self.ports for axis in port.shape}
        return replace(options, defaults={name: span for name, span in self.spans.items() if name in used})


def describe_inputs(subject: Subject, recipe: Sequence[Port] | None) -> Inputs:
    """Return the inputs: those the recipe names, else all that are made or needed. Raises StepError by name."""
    names = _named(subject, recipe)
    spans = _spans(subject)
    if recipe:
        known = {port.name: port for port in recipe}
        found = [_wished(subject, known[name]) for name in names if name in known]
        ports, limits = [port for port, _ in found], {k: v for _, own in found for k, v in own.items()}
    else:
        ports = [_described(subject, name) for name in names]
        limits = _limits(subject)
    return Inputs(ports, limits, spans)


def _named(subject: Subject, recipe: Sequence[Port] | None) -> list[str]:
    """Return the names of the inputs in the order of `forward`."""
    accepted = subject.accepted
    if recipe:
        for port in recipe:
            if port.name not in accepted:
                listed = ", ".join(f"`{name}`" for name in accepted if _is_wanted(subject, name))
                raise StepError(f"the model has no input `{port.name}`, expected some of {listed}")
        return [name for name in accepted if name in {port.name for port in recipe}]
    return [name for name in accepted if _is_wanted(subject, name)]


def _is_wanted(subject: Subject, name: str) -> bool:
    """Say whether an input is needed by the model, or looked at by it and made for it."""
    if _is_inlaid(subject) and name in _OTHER_SENSES:
        return bool(subject.processor)
    if name in subject.made or subject.accepted[name].default is inspect.Parameter.empty:
        return True
    return name == subject.model.main_input_name or (name in _DESCRIBED and name not in _MADE)


def _is_inlaid(subject: Subject) -> bool:
    """Say whether images take the positions of tokens among the ids: such a model reads plain text as well."""
    config = subject.model.config
    return any(getattr(config, name, None) is not None for name in ("image_token_id", "image_token_index"))


def _described(subject: Subject, name: str) -> Port:
    """Return an input as the configuration describes it. Raises StepError when that says too little."""
    if name in _OTHER_SENSES and _is_inlaid(subject):
        raise StepError(
            f"`{name}` takes the positions of tokens in `input_ids`, so neither can vary alone",
            hint="name `input_ids` and `attention_mask` under `inputs` to export the model's text side",
        )
    try:
        if name in _DESCRIBED:
            return _DESCRIBED[name](subject, name)
    except (AttributeError, KeyError, TypeError, NotImplementedError):
        pass  # the configuration lacks what the description reads: said below, by name
    raise StepError(
        f"input `{name}` of `{type(subject.model).__name__}` cannot be described from its configuration",
        hint="describe every input under `inputs`: its name, dtype, shape and range",
    )


def _wished(subject: Subject, port: Port) -> tuple[Port, Mapping[str, Range]]:
    """Return an input as the recipe describes it, within what is known, and the limits under the recipe's names."""
    try:
        known = _described(subject, port.name)
    except StepError:
        return port, {}
    if (port.dtype, len(port.shape)) != (known.dtype, len(known.shape)):
        raise StepError(f"input `{port.name}` is {known.dtype} with shape {known.shape}")
    limits = _limits(subject)
    named = zip(port.shape, known.shape, strict=True)
    own = {axis: limits[str(as_known)] for axis, as_known in named if isinstance(axis, str) and as_known in limits}
    return replace(port, range=port.range or known.range), own


# -- what the configuration says of each name


def _tokens(subject: Subject, name: str) -> Port:
    return Port(name, "int64", (BATCH, SEQUENCE), (0, _vocabulary(subject) - 1))


def _vocabulary(subject: Subject) -> int:
    if hasattr(subject.text, "num_hash_buckets"):
        return _CODE_POINTS
    try:
        return int(subject.model.get_input_embeddings().num_embeddings)
    except (AttributeError, NotImplementedError):  # two towers have no own embeddings
        return int(subject.text.vocab_size)


def _mask(subject: Subject, name: str) -> Port:
    return Port(name, "int64", (BATCH, _long_axis(subject)), (0, 1))


def _long_axis(subject: Subject) -> str:
    by_name = {"input_values": SAMPLES, "input_features": FRAMES}
    return by_name.get(subject.model.main_input_name, SEQUENCE)


def _types(subject: Subject, name: str) -> Port:
    if hasattr(subject.text, "type_vocab_sizes"):
        raise TypeError("several types per token, each with its own table")
    return Port(name, "int64", (BATCH, SEQUENCE), (0, max(getattr(subject.text, "type_vocab_size", 1) - 1, 0)))


def _boxes(subject: Subject, name: str) -> Port:
    positions = getattr(subject.text, "max_2d_position_embeddings", None)
    if positions is None:
        return Port(name, "float32", (BATCH, SEQUENCE, 4), (0, 1))
    return Port(name, "int64", (BATCH, SEQUENCE, 4), (0, min(positions - 1, 1000)))


def _paths(subject: Subject, name: str) -> Port:
    kind = "tag" if name == "xpath_tags_seq" else "subs"
    count = getattr(subject.text, f"max_xpath_{kind}_unit_embeddings")
    return Port(name, "int64", (BATCH, SEQUENCE, subject.text.max_depth), (0, count - 1))


def _coded(attribute: str) -> Callable[[Subject, str], Port]:
    def describe(subject: Subject, name: str) -> Port:
        return Port(name, "int64", (BATCH, SEQUENCE), (0, getattr(subject.text, attribute) - 1))

    return describe


def _image(subject: Subject, name: str) -> Port:
    if any(key in subject.processor for key in _PATCHED):
        raise TypeError("the processor cuts images into patches")
    return Port(
        name, "float32", (BATCH, images.count_channels(subject.model), *(subject.size.fixed or (HEIGHT, WIDTH)))
    )


def _image_mask(subject: Subject, name: str) -> Port:
    return Port(name, "int64", (BATCH, *(subject.size.fixed or (HEIGHT, WIDTH))), (0, 1))


def _wave(subject: Subject, name: str) -> Port:
    config = subject.model.config
    if hasattr(config, "num_mel_bins") and hasattr(config, "max_length"):
        return Port(name, "float32", (BATCH, config.max_length, config.num_mel_bins))
    return Port(name, "float32", (BATCH, SAMPLES))


def _features(subject: Subject, name: str) -> Port:
    config = subject.model.config
    if hasattr(config, "max_source_positions") and hasattr(config, "num_mel_bins"):
        return Port(name, "float32", (BATCH, config.num_mel_bins, 2 * config.max_source_positions))
    width = getattr(config, "feature_projection_input_dim", None) or config.num_mel_bins
    return Port(name, "float32", (BATCH, FRAMES, width))


_DESCRIBED: Mapping[str, Callable[[Subject, str], Port]] = {
    "input_ids": _tokens,
    "attention_mask": _mask,
    "token_type_ids": _types,
    "bbox": _boxes,
    "xpath_tags_seq": _paths,
    "xpath_subs_seq": _paths,
    "input_shape_ids": _coded("shape_vocab_size"),
    "input_pronunciation_ids": _coded("pronunciation_vocab_size"),
    "task_type_ids": _coded("task_type_vocab_size"),
    "pixel_values": _image,
    "pixel_mask": _image_mask,
    "input_values": _wave,
    "input_features": _features,
}


# -- lengths


def _limits(subject: Subject) -> dict[str, Range]:
    return {
        SEQUENCE: (1, count_positions(subject)),
        SAMPLES: (_receptive_field(subject.model.config, 1), _LONGEST),
        FRAMES: (1, _LONGEST),
        HEIGHT: (1, _LONGEST),
        WIDTH: (1, _LONGEST),
    }


def _spans(subject: Subject) -> dict[str, Range]:
    """Return the default ranges of what is longer than text; sound from two frames on, one is a special case."""
    rate = subject.processor.get("sampling_rate") or 16_000
    side = (images.SMALLEST, subject.size.longest)
    return {SAMPLES: (_receptive_field(subject.model.config, 2), 10 * rate), HEIGHT: side, WIDTH: side}


def _receptive_field(config: Any, frames: int) -> int:
    """Return how many samples the convolutions of a speech model need to make so many frames."""
    kernels, strides = getattr(config, "conv_kernel", None), getattr(config, "conv_stride", None)
    if isinstance(kernels, list | tuple) and isinstance(strides, list | tuple):
        for kernel, stride in reversed([*zip(kernels, strides, strict=True)]):
            frames = (frames - 1) * stride + kernel
    return frames


def count_positions(subject: Subject) -> int:
    """Return the longest sequence; some families count positions from behind the padding token."""
    stated = (getattr(subject.text, name, None) for name in ("max_position_embeddings", "max_target_positions"))
    count = next((int(number) for number in stated if number), program.UNBOUNDED)
    for name, module in subject.model.named_modules():
        padding = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and padding is not None and hasattr(module, "num_embeddings"):
            return min(count, module.num_embeddings - padding - 1)
    return count if count > 0 else program.UNBOUNDED


# -- values


def make_plausible(feeds: Feeds) -> dict[str, Any]:
    """Return drawn values as a processor makes them: boxes with corners in order, masks without holes, level sound."""
    return {name: _PLAUSIBLE[name](array) if name in _PLAUSIBLE else array for name, array in feeds.items()}


def _ordered(boxes: Any) -> Any:
    """Return boxes whose second corner is not before the first."""
    made = boxes.copy()
    made[..., :2], made[..., 2:] = boxes[..., :2].clip(max=boxes[..., 2:]), boxes[..., 2:].clip(min=boxes[..., :2])
    return made


def _rectangles(masks: Any) -> Any:
    """Return masks that are one on a rectangle from the top left corner, whose size the given masks decide."""
    made = masks.copy()
    made[:] = 0
    height, width = masks.shape[1:]
    for row, mask in zip(made, masks, strict=True):
        filled = mask.mean()
        row[: max(1, round(height * filled)), : max(1, round(width * (1 - (1 - filled) / 2)))] = 1
    return made


def _levelled(waves: Any) -> Any:
    """Return sound of zero mean and unit variance, as feature extractors make it; silence stays silence."""
    if waves.ndim != 2:
        return waves
    variance = waves.var(axis=1, keepdims=True)
    return ((waves - waves.mean(axis=1, keepdims=True)) / (variance + 1e-7) ** 0.5).astype(waves.dtype)


_PLAUSIBLE: Mapping[str, Callable[[Any], Any]] = {
    "bbox": _ordered,
    "pixel_mask": _rectangles,
    "input_values": _levelled,
}

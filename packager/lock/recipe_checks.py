# SPDX-License-Identifier: Apache-2.0
"""What is refused of a recipe and its source before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from packager import plugins
from packager.bundle.bundle import Bundle
from packager.edits import Edit
from packager.errors import (
    StepError,
    UsageError,
)
from packager.lock import base
from packager.recipe.fields import LOSSY, PRECISIONS
from packager.recipe.recipe import Recipe, no_tolerance
from packager.runtime import load_runtime
from packager.server.generation.settings import PAIRS
from packager.store.store import Store


def check_targets(recipe: Recipe) -> None:
    """Refuse targets that no runtime has, and int8 or int4 without a tolerance, before anything is fetched."""
    for target in recipe.targets():
        runtime = load_runtime(target.runtime)
        runtime.check_target(target.device, target.precision)
        if runtime.tasks and recipe.task is None:
            raise UsageError(
                f"`{target.runtime}` runs models that generate text, and the recipe states no `task`",
                hint=f"write `task: {runtime.tasks[0]}`, or remove `{target.runtime}` from `runs-on`",
            )
        if recipe.adapters and not (target.runtime == "onnxruntime" and target.name.endswith("-cpu-fp32")):
            raise UsageError(
                f"`{target.name}` takes no adapters",
                hint="`adapters` is for `onnxruntime` on CPUs in fp32: leave the other targets out",
            )
        pair = recipe.task in PAIRS and not (target.runtime == "onnxruntime" and target.precision == "fp32")
        if pair or (runtime.tasks and recipe.task not in runtime.tasks):
            raise UsageError(
                f"`{target.name}` cannot run `task: {recipe.task}`",
                hint="an encoder-decoder runs on `onnxruntime` in fp32: leave the other runtimes and precisions out",
            )
        named = set(recipe.tolerance) - {"default", *PRECISIONS} | set(recipe.tolerance) & {target.precision}
        if target.precision.startswith(LOSSY) and not named:
            raise no_tolerance(target.precision)


def check_base(recipe: Recipe, exporter: str, store: Store) -> Bundle | None:
    """Return the base of an adapter, None for a source that is a model. Refuses one without the other."""
    adapts = getattr(plugins.load("exporters", exporter), "ADAPTS", False)
    if adapts and recipe.base is None:
        raise UsageError(
            "the source is an adapter, and the recipe names no `base`",
            hint="write `base: NAME:VERSION`, the bundle of the model that it was trained on",
        )
    if recipe.base is not None and not adapts:
        raise UsageError(
            f"`base` is set, and a source of kind `{exporter}` is no adapter",
            hint="leave `base` out: it is for what PEFT saves",
            edits=[Edit(("base",))],
        )
    return None if recipe.base is None else base.open_base(recipe.base, store)


def check_pickle(recipe: Recipe, exporter: str, payload: str) -> None:
    """Refuse a model that runs code when it is opened, unless the recipe says so in so many words."""
    module = plugins.load("exporters", exporter)
    if module.EXECUTES and not recipe.allow_pickle:
        raise StepError(
            f"`{payload}` is {getattr(module, 'IS', 'a pickle')}: opening it runs the code inside",
            hint="log the model in a form that is data (pt2, ONNX, skops); or, if you trust its author, "
            "write `allow-pickle: true` in the recipe",
            edits=[Edit(("allow-pickle",), True, consents=True)],
        )


def check_dequantize(recipe: Recipe, exporter: str, payload: str) -> None:
    """Refuse weights in blocks of fewer bits unless the recipe consents to float32, and the word for other sources."""
    blocks = getattr(plugins.load("exporters", exporter), "DEQUANTIZES", False)
    if blocks and not recipe.dequantize:
        raise StepError(
            f"`{payload}` may hold weights in blocks of fewer bits, which a graph computes in float32",
            hint="write `dequantize: true` in the recipe if a bundle several times as large is what you want; "
            "the model as its authors saved it has lost nothing yet",
            edits=[Edit(("dequantize",), True, consents=True)],
        )
    if recipe.dequantize and not blocks:
        raise UsageError(
            f"`dequantize` is set, and a source of kind `{exporter}` has no blocks",
            hint="leave it out: it is for GGUF files",
            edits=[Edit(("dequantize",))],
        )


def check_signature(recipe: Recipe, exporter: str) -> None:
    """Refuse a signature for a source that has no such thing."""
    if recipe.export.signature and not getattr(plugins.load("exporters", exporter), "SIGNATURES", False):
        raise UsageError(
            f"`export.signature` is `{recipe.export.signature}`, and a source of kind `{exporter}` has no signatures",
            hint="leave `signature` out: only a SavedModel has several functions",
            edits=[Edit(("export", "signature"))],
        )


def check_task(recipe: Recipe, exporter: str, payload: str, paths: Sequence[str], read: Callable[[str], bytes]) -> None:
    """Refuse a task for a source that has none, by its small files, before anything is built."""
    if not recipe.task:
        return
    offered = getattr(plugins.load("exporters", exporter), "task", None)
    if offered is None:
        raise UsageError(
            f"`task` is `{recipe.task}`, and a source of kind `{exporter}` generates no text",
            hint="leave `task` out: it is for directories of transformers and MLflow's flavour of them",
            edits=[Edit(("task",))],
        )
    found = offered(payload, paths, read)
    if found is None:
        raise UsageError(
            f"`task` is `{recipe.task}`, and `{payload}` is no causal language model with a tokenizer, "
            "and no encoder-decoder with one that is known here",
            hint="leave `task` out: without it the model becomes a graph of one pass",
            edits=[Edit(("task",))],
        )
    if found != recipe.task:
        raise UsageError(
            f"`task` is `{recipe.task}`, and what `{payload}` does is `{found}`",
            hint=f"write `task: {found}`",
            edits=[Edit(("task",), found)],
        )

# SPDX-License-Identifier: Apache-2.0
"""The libraries that a pipeline runs on: the same versions at the site as where it was compared with the source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from packager.recipe.pipeline import PipelineSpec
from packager.runtime import load_runtime
from packager.server.pipeline.parts import RAW

EXTRA = "transformers"
_LIBRARIES: Mapping[str, tuple[str, ...]] = {"text": ("tokenizers",), "image": ("pillow",), "audio": ()}
_RUN_ELSEWHERE: Mapping[str, tuple[str, ...]] = {"triton": ("orjson>=3.10",)}  # servers of others, and what ours needs
_BUILD = ("onnxruntime", "numpy")  # what the graph runs on while answers are compared


def list_tools(spec: PipelineSpec | None) -> tuple[str, ...]:
    """Return the distributions whose version can change what a pipeline answers."""
    return () if spec is None else (*_libraries(spec), *_BUILD)


def _libraries(spec: PipelineSpec) -> tuple[str, ...]:
    both = spec.task == "zero-shot-image-classification"
    return (*_LIBRARIES[RAW[spec.task]], *(_LIBRARIES["text"] if both else ()))


def list_requirements(spec: PipelineSpec | None, runtime: str, versions: Mapping[str, str]) -> Sequence[str]:
    """Return what a server on a runtime needs besides, at the versions of the toolchain; nothing where ours is none."""
    if spec is None or not (load_runtime(runtime).served or runtime in _RUN_ELSEWHERE):
        return ()
    return [*(f"{name}=={versions[name]}" for name in _libraries(spec)), *_RUN_ELSEWHERE.get(runtime, ())]

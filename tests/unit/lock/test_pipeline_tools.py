# SPDX-License-Identifier: Apache-2.0
"""What a lock has of a pipeline's libraries, by the server that will run it."""

from __future__ import annotations

import pytest

from packager.lock import pipeline_tools
from packager.recipe.pipeline import PipelineSpec

VERSIONS = {"tokenizers": "0.22.1", "pillow": "12.0.0"}


@pytest.mark.parametrize(
    ("runtime", "expected"),
    [
        ("onnxruntime", ["tokenizers==0.22.1"]),
        ("triton", ["tokenizers==0.22.1", "orjson>=3.10"]),  # it runs our code, and lacks what our servers have
        ("tensorrt", []),
    ],
)
def test_libraries_of_a_pipeline_are_locked_for_who_runs_it(runtime: str, expected: list[str]) -> None:
    found = pipeline_tools.list_requirements(PipelineSpec("text-classification"), runtime, VERSIONS)
    assert list(found) == expected
    assert list(pipeline_tools.list_requirements(None, runtime, VERSIONS)) == []

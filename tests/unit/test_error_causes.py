# SPDX-License-Identifier: Apache-2.0
"""Of a foreign error the line that says what happened is kept, whatever was wrapped around it."""

from __future__ import annotations

import pytest

from packager import error_causes
from packager.errors import UsageError

GRAPH = """Graph execution error:

Detected at node model/embedding/embedding_lookup defined at (most recent call last):
<stack traces unavailable>
indices[0,3] = 1200 is not in [0, 977)
\t [[{{node model/embedding/embedding_lookup}}]] [Op:__inference_signature_wrapper_120]"""
LAYER = """Exception encountered when calling Embedding.call().

\x1b[1mThe structure of `inputs` doesn't match the expected structure.
Expected: {'b': 'b'}\x1b[0m

Arguments received by Embedding.call():
  • inputs=['tf.Tensor(shape=(1, 2), dtype=float32)']"""
USER = """in user code:

    File "/site-packages/keras/layer.py", line 74, in None  *
        lambda *tensors: tuple(self.call(*tensors))
    File "/site-packages/keras/utils.py", line 122, in error_handler  **
        raise e.with_traceback(filtered_tb) from None

    ValueError: Exception encountered when calling Functional.call().
    \x20
    \x1b[1mInput 0 is incompatible with the layer\x1b[0m
    \x20
    Arguments received by Functional.call():
      • training=False
"""
TRACE = """Traceback (most recent call last):
  File "convert.py", line 3, in <module>
    convert()
  File "convert.py", line 9, in convert
    ^^^^^^^^^
KeyError: 'weights'"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain words", "plain words"),
        ("first line\nmore of it", "first line"),
        ("", "no message"),
        ("\n \n", "no message"),
        ("incompatible dtype:\nexpected float32, got float64", "incompatible dtype: expected float32, got float64"),
        (
            "node array from the pickle has an incompatible dtype:",
            "node array from the pickle has an incompatible dtype:",
        ),
        (GRAPH, "indices[0,3] = 1200 is not in [0, 977)"),
        (GRAPH.split("Detected")[0] + GRAPH.rpartition("unavailable>\n")[2], "indices[0,3] = 1200 is not in [0, 977)"),
        (LAYER, "The structure of `inputs` doesn't match the expected structure."),
        (USER, "Input 0 is incompatible with the layer"),
        (TRACE, "KeyError: 'weights'"),
        (
            "Could not locate class 'Scaled'. Full object config: {'module': None, 'x': 1}",
            "Could not locate class 'Scaled'.",
        ),
    ],
)
def test_the_cause_is_kept(text: str, expected: str) -> None:
    assert error_causes.find_cause_line(text) == expected


def test_a_cause_is_one_bounded_line() -> None:
    reply = error_causes.find_cause(ValueError("x" * 5000))
    assert reply.startswith("ValueError: xxx") and len(reply) < 350


def test_a_long_line_keeps_its_end() -> None:
    """ONNX Runtime names files and nodes first, and says last what is wrong."""
    node = "/decoder/" + "If_0/then_branch__Inlined_0__" * 12
    text = f"[ONNXRuntimeError] : 1 : FAIL : Load model from /tmp/a/model.onnx failed:Node ({node}) Op (Squeeze) [ShapeInferenceError] Dimension of input 0 must be 1 instead of 2"
    reply = error_causes.find_cause_line(text)
    assert reply.startswith("Node (/decoder/") and reply.endswith("Dimension of input 0 must be 1 instead of 2")
    assert len(reply) < 350 and "Load model" not in reply


def test_a_name_that_a_message_quotes_ends_no_line() -> None:
    error = UsageError("target `\x1b[2J\nx\u2028y` is unknown")
    assert error.message == str(error) == "target `\\x1b[2J\\nx\\u2028y` is unknown"

# SPDX-License-Identifier: Apache-2.0
"""The graph must be deterministic: equal inputs give equal outputs.

Operators that draw random numbers at run time (`RandomNormalLike`, `Multinomial`, …) make reference vectors and
conformance results meaningless; dropout left in training mode is the usual cause. So does `DynamicQuantizeLSTM`, whose
output depends on the number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

VERSION = 1
FACTS = ("nondeterministic",)
_BY_THREADS = ("DynamicQuantizeLSTM",)


def check(facts: Mapping[str, JSON]) -> Iterator[Finding]:
    """Yield one finding for each nondeterministic operator in the graph."""
    for operator in facts["nondeterministic"]:
        if operator in _BY_THREADS:
            yield Finding(
                "deterministic",
                "error",
                operator,
                f"the output of `{operator}` depends on the number of threads: each quantises its share of a batch",
                "quantise the model without its LSTM (`op_types_to_quantize`), or ship it in float32",
            )
            continue
        yield Finding(
            "deterministic",
            "error",
            operator,
            f"the graph draws random numbers at run time through `{operator}`",
            "export the model in evaluation mode, or pass the noise in as an input",
        )

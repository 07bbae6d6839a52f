# SPDX-License-Identifier: Apache-2.0
"""The line about weights in blocks: what the contract says, and nothing of a contract that says something else."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from packager.contract.quantised import describe_blocks

STATED = {"bits": 4, "block": 32, "layers": 36, "loss": 0.0847, "float32": {"table": ["a", "b"], "loss": ["c"]}}


def test_the_line_names_what_stays() -> None:
    words = describe_blocks({"artefact": {"quantised": STATED}})
    assert words == (
        "36 layers in blocks of 32 weights with 4 bits, off by up to 0.085 of their size; "
        "in float32: 2 looked up, 1 too far off in blocks"
    )
    assert describe_blocks({"artefact": {"reproducibility": "bitwise"}}) is None


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*STATED, "artefact", "table"]), inner),
    max_leaves=8,
)


@given(JUNK, st.sampled_from([*STATED, "quantised", "artefact"]))
def test_another_s_contract_ends_in_a_line_or_none(value: Any, member: str) -> None:
    stated: Any = {**STATED, member: value}
    target = {"artefact": value if member == "artefact" else {"quantised": value if member == "quantised" else stated}}
    words = describe_blocks(target)
    assert words is None or "\n" not in words

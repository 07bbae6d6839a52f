# SPDX-License-Identifier: Apache-2.0
"""Rows that are ready to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packager.server.protocol.tensors import Array

if TYPE_CHECKING:
    from packager.server.pipeline.text import Tokens


@dataclass(frozen=True, slots=True)
class Prepared:
    """The inputs of the graph for some rows, and what their answers need.

    `windows` says how many rows of the graph belong to each text, `sizes` have the height and width of each picture as
    it was sent, `labels` are those that pictures are compared with. `outside` has the dimensions whose sizes the build
    did not measure.
    """

    feeds: Mapping[str, Array]
    rows: Sequence[tuple[str, str | None]]  # of texts
    tokens: Sequence[Tokens]
    outside: tuple[str, ...] = ()
    windows: Sequence[int] = ()
    sizes: Sequence[tuple[int, int]] = ()
    labels: Sequence[str] = ()

    @property
    def count(self) -> int:
        return len(next(iter(self.feeds.values())))

    @property
    def token_count(self) -> int:
        return sum(len(row.ids) for row in self.tokens)

# SPDX-License-Identifier: Apache-2.0
"""Curves as one SVG: latency (p50, p99) over throughput, a line for each subject; it has no script and no link."""

from __future__ import annotations

import math
from xml.sax.saxutils import escape

from packager.canonical import JSON

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 720, 440, 70, 60, 70, 30
_COLOURS = ("#0b62a8", "#b3460f", "#2d7a2d", "#7a3f9d")
_LABEL = 60  # characters
_HEAD = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
    'font-family="sans-serif" font-size="13">'
)


def draw_curves(document: JSON) -> str:
    """Return the SVG of what `Curves.to_json` returns."""
    points = [point for subject in document["subjects"] for point in subject["points"]]
    across = _scale([point["requests_per_second"]["mean"] for point in points], _LEFT, _WIDTH - _RIGHT)
    up = _scale([point[name]["mean"] for point in points for name in ("p50", "p99")], _HEIGHT - _BOTTOM, _TOP)
    parts = [
        _HEAD.format(width=_WIDTH, height=_HEIGHT),
        "<title>Latency over throughput</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
    ]
    parts += [_text(across.at(tick), _HEIGHT - _BOTTOM + 20, f"{tick:g}", "middle") for tick in across.ticks]
    parts += [_text(_LEFT - 8, up.at(tick) + 4, f"{tick:g}", "end") for tick in up.ticks]
    parts += [_line([(_LEFT, up.at(tick)), (_WIDTH - _RIGHT, up.at(tick))], "#dddddd") for tick in up.ticks]
    parts.append(_text((_LEFT + _WIDTH) / 2, _HEIGHT - 14, "requests per second (number of clients at each point)"))
    parts.append(_text(_LEFT, _TOP - 12, "milliseconds", "start"))
    for index, subject in enumerate(document["subjects"][: len(_COLOURS)]):
        colour = _COLOURS[index]
        for name, dash in (("p50", ""), ("p99", "6 4")):
            places = [
                (across.at(row["requests_per_second"]["mean"]), up.at(row[name]["mean"])) for row in subject["points"]
            ]
            parts.append(_line(places, colour, dash, 2))
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places]
            if name == "p50":
                rows = zip(places, subject["points"], strict=True)
                parts += [_text(x, y + 17, str(row["clients"]), "middle", "#555555") for (x, y), row in rows]
        label = f"{subject['label'][:_LABEL]}: p50 (solid), p99 (dashed)"
        parts.append(_text(_LEFT, 20 + 18 * index, label, "start", colour))
    return "\n".join([*parts, "</svg>", ""])


class _scale:  # noqa: N801 - made like a function
    """A logarithmic axis from `start` to `end` in pixels."""

    def __init__(self, values: list[float], start: float, end: float) -> None:
        low, high = math.log10(min(values)), math.log10(max(values))
        margin = max(0.05, (high - low) * 0.08)
        self._low, self._high, self._start, self._end = low - margin, high + margin, start, end
        steps = [digit * 10.0**power for power in range(-6, 9) for digit in (1, 2, 5)]
        self.ticks = [step for step in steps if self._low <= math.log10(step) <= self._high]

    def at(self, value: float) -> float:
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)


def _text(x: float, y: float, text: str, anchor: str = "middle", fill: str = "#222222") -> str:
    shown = "".join(mark if mark.isprintable() else "�" for mark in text)
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}">{escape(shown)}</text>'


def _line(places: list[tuple[float, float]], colour: str, dash: str = "", width: float = 1) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"{dashed}/>'

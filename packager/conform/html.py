# SPDX-License-Identifier: Apache-2.0
"""A conformance result as one HTML page that needs no network: matrix, latency, drift over versions, environments."""

from __future__ import annotations

import math

from packager.canonical import JSON
from packager.conform import operators
from packager.conform.results import describe_origin, render_summary, summarise_cells
from packager.escape import html as escape

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1c2330;background:#fff}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}p{margin:.3rem 0}
code{font-size:.85em;word-break:break-all}
table{border-collapse:collapse;width:100%;font-size:.88rem}
th,td{padding:.3rem .5rem;text-align:left;border-bottom:1px solid #dfe3ea}
td.n{text-align:right;font-variant-numeric:tabular-nums}.pass{background:#d9f0e0}.fail{background:#f8d4d2;font-weight:600}
.skip{background:#eceef2;color:#4c5566}.known{background:#f6e7c1}
details{margin:.2rem 0}summary{cursor:pointer}svg{max-width:100%;height:auto}
svg text{font:11px system-ui,sans-serif;fill:#3a4252}.scroll{overflow-x:auto}
@media(prefers-color-scheme:dark){body{background:#15181e;color:#dfe3ea}th,td{border-color:#323846}.pass{background:#1d4a30}
.fail{background:#6d2320}.skip{background:#2a2f3a;color:#aab2c0}svg text{fill:#c3cad6}}
"""


def render(result: JSON) -> str:
    """Return the page."""
    bundle, found = result["bundle"], summarise_cells(result)
    word = "pass" if found["ok"] else "fail"
    title = f"Conformance of {bundle['name']} {bundle['version']}"
    sections = [
        f"<h1>{escape(title)}</h1><p><code>{escape(bundle['digest'])}</code></p>",
        f'<p class="{word}">{escape("passed" if found["ok"] else "not passed")}: {escape(render_summary(result))}</p>',
        _matrix(result),
        _latency(result),
        _drift(result),
        _environments(result),
        _checks(result),
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<style>{_STYLE}</style></head><body>{''.join(sections)}</body></html>\n"
    )


def _matrix(result: JSON) -> str:
    levels = [f"L{number}" for number in range(result["level"] + 1)]
    head = "".join(f"<th>{level}</th>" for level in levels)
    rows = "".join(_row(cell, levels) for cell in result["cells"])
    return (
        '<h2>Matrix</h2><div class="scroll"><table><tr><th>runtime</th><th>version</th><th>target</th>'
        f"{head}<th>reason</th></tr>{rows}</table></div>"
        "<p>L0 integrity, L1 load, L2 interface, L3 numerics, L4 behaviour, L5 speed. A skip is not a pass.</p>"
    )


def _row(cell: JSON, levels: list[str]) -> str:
    words = (cell["levels"].get(level, cell["outcome"] if not cell["levels"] else "skip") for level in levels)
    marks = "".join(f'<td class="{escape(word)}">{escape(word)}</td>' for word in words)
    names = "".join(f"<td>{escape(cell[key])}</td>" for key in ("runtime", "version", "target"))
    return f"<tr>{names}{marks}<td>{escape(cell['reason'])}</td></tr>"


def _latency(result: JSON) -> str:
    """Bars from p50 to p99 on a logarithmic axis, so that a library and a slow server fit on one page."""
    rows = [
        (cell["cell"], cell["measures"]["latency_ms"]) for cell in result["cells"] if cell["measures"].get("latency_ms")
    ]
    if not rows:
        return ""
    low = min(item["least"] for _, item in rows) * 0.8
    high = max(item["p99"] for _, item in rows) * 1.25
    scale = _Scale(low, high, 330, 900)
    bars = "".join(_bar(number, name, item, scale) for number, (name, item) in enumerate(rows))
    height = 24 * len(rows) + 30
    return (
        "<h2>Latency</h2><p>Milliseconds per request, one client: bar from p50 to p99, tick at the least.</p>"
        f'<svg viewBox="0 0 920 {height}" role="img" aria-label="latency">{scale.axis(height)}{bars}</svg>'
    )


class _Scale:
    """A logarithmic axis from pixel `left` to `right`."""

    def __init__(self, low: float, high: float, left: float, right: float) -> None:
        self._low, self._left = math.log10(max(low, 1e-9)), left
        self._factor = (right - left) / max(math.log10(max(high, 1e-9)) - self._low, 1e-9)

    def __call__(self, value: float) -> float:
        return self._left + (math.log10(max(value, 1e-9)) - self._low) * self._factor

    def axis(self, height: int) -> str:
        """Return a line and a label at every power of ten inside."""
        end = self._low + (900 - self._left) / self._factor
        powers = range(math.ceil(self._low), math.floor(end) + 1)
        return "".join(
            f'<line x1="{self(10.0**p):.1f}" x2="{self(10.0**p):.1f}" y1="18" y2="{height}" stroke="#b8c0cc" '
            f'stroke-dasharray="2 3"/><text x="{self(10.0**p):.1f}" y="12" text-anchor="middle">{10.0**p:g}</text>'
            for p in powers
        )


def _bar(number: int, name: str, item: JSON, scale: _Scale) -> str:
    y = 24 * number + 22
    left, right, least = scale(item["p50"]), scale(item["p99"]), scale(item["least"])
    label = f"{item['p50']:.3g} / {item['p99']:.3g}"
    return (
        f'<text x="320" y="{y + 13}" text-anchor="end">{escape(name[:52])}</text>'
        f'<rect x="{left:.1f}" y="{y + 3}" width="{max(2, right - left):.1f}" height="12" rx="2" fill="#4a78c2">'
        f"<title>{escape(label)} ms</title></rect>"
        f'<line x1="{least:.1f}" x2="{least:.1f}" y1="{y + 1}" y2="{y + 17}" stroke="#c26a2a" stroke-width="2"/>'
    )


def _drift(result: JSON) -> str:
    """Per cell the largest difference from the reference over all vectors, on a logarithmic axis; bit-equal is left."""
    rows = [(cell["cell"], _largest(cell)) for cell in result["cells"] if cell["measures"].get("drift")]
    if not rows:
        return ""
    values = [value for _, value in rows if value > 0]
    note = f"<p>Largest absolute difference from {escape(describe_origin(result['reference']))}.</p>"
    if not values:
        return f"<h2>Drift</h2>{note}<p>All {len(rows)} cells gave the same bits.</p>"
    scale = _Scale(min(values) * 0.5, max(values) * 2, 380, 900)
    height = 24 * len(rows) + 30
    marks = "".join(_mark(number, name, value, scale) for number, (name, value) in enumerate(rows))
    return (
        f'<h2>Drift</h2>{note}<svg viewBox="0 0 920 {height}" role="img" aria-label="drift of every cell">'
        f"{scale.axis(height)}{marks}</svg>"
    )


def _largest(cell: JSON) -> float:
    outputs = [item for table in cell["measures"]["drift"].values() for item in table.values()]
    return max((float(item["max_abs"]) for item in outputs), default=0.0)


def _mark(number: int, name: str, value: float, scale: _Scale) -> str:
    y = 24 * number + 22
    label = f'<text x="320" y="{y + 13}" text-anchor="end">{escape(name[:52])}</text>'
    if value == 0:
        return f'{label}<text x="330" y="{y + 13}">= bits</text>'
    x = scale(value)
    return f'{label}<circle cx="{x:.1f}" cy="{y + 9}" r="5" fill="#c26a2a"><title>{value:.3g}</title></circle>'


def _environments(result: JSON) -> str:
    host = ", ".join(f"{escape(key)} {escape(str(value))}" for key, value in result["host"].items() if value)
    keys = ("engine", "provider", "device", "python", "numpy", "pid")
    head = "".join(
        f"<th>{key}</th>" for key in ("cell", *keys, "start s", "resident MB", "requests/s", "suite overhead s")
    )
    rows = "".join(
        f"<tr><td>{escape(cell['cell'])}</td>"
        + "".join(f"<td>{escape(str(cell['identity'].get(key, '')))}</td>" for key in keys)
        + "".join(f'<td class="n">{_number(value)}</td>' for value in _figures(cell))
        + "</tr>"
        for cell in result["cells"]
    )
    return f'<h2>Environments</h2><p>{host}</p><div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'


def _figures(cell: JSON) -> list[JSON]:
    measures = cell["measures"]
    resident = measures.get("resident_bytes")
    return [
        measures.get("cold_start_seconds"),
        resident and resident / 1e6,
        measures.get("throughput_rps"),
        measures.get("overhead_seconds"),
    ]


def _number(value: JSON) -> str:
    return "" if value is None else f"{value:.1f}"


def _checks(result: JSON) -> str:
    parts = []
    for cell in result["cells"]:
        rows = "".join(
            f'<tr><td>L{check["level"]}</td><td>{escape(check["name"])}</td><td class="{escape(check["outcome"])}">'
            f"{escape(check['outcome'])}</td><td>{escape(check['reason'])}</td></tr>"
            for check in cell["checks"]
        )
        table = f"<table>{rows}</table>" if rows else ""
        if "operators" in cell:
            table += "".join(f"<p>{escape(line)}</p>" for line in operators.render_lines(cell["operators"]))
        parts.append(f"<details><summary>{escape(cell['cell'])}: {escape(cell['outcome'])}</summary>{table}</details>")
    return "<h2>Every check</h2>" + "".join(parts)

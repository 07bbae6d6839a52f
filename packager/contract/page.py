# SPDX-License-Identifier: Apache-2.0
"""The answer of `packager compat` as one page of HTML: no script, no network, readable in black and white."""

from __future__ import annotations

from collections.abc import Sequence

from packager.contract.preflight import Cell, Reach, Span, Step, join_cells
from packager.escape import html as escape

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #1b1b1b }
table { border-collapse: collapse; width: 100%; margin: 0 0 2em }
th, td { text-align: left; vertical-align: top; padding: .3em .7em; border-bottom: 1px solid #ccc }
.ok { background: #d9f2e0 } .no { background: #f8d9d6 } .unknown { background: #f4eccd }
code { font-size: 90% } small { color: #555 }
""".strip()
_MARKS = {"ok": "✓ ok", "no": "✗ no", "unknown": "? unknown"}


def render_page(
    name: str, version: str, digest: str, cells: Sequence[Cell], reached: Sequence[Reach], steps: Sequence[Step]
) -> str:
    """Return the page. The same answer gives the same bytes."""
    title = f"Where {escape(name)} {escape(version)} runs"
    parts = [f"<h1>{title}</h1>", f"<p><code>{escape(digest)}</code></p>"]
    if steps:
        rows = "".join(
            f"<li>{escape(s.message)} <small>reaches {escape(', '.join(s.sites))}</small></li>" for s in steps
        )
        parts.append(f"<h2>What would reach more sites, the smallest change first</h2><ol>{rows}</ol>")
    for entry in reached:
        heading = f"{escape(entry.site.name)} <small>{_MARKS[entry.outcome]}</small>"
        parts.append(f'<h2 class="{entry.outcome}">{heading}</h2>{_table(entry.cells)}')
    if cells:
        parts.append(f"<h2>Runtimes</h2>{_table(cells)}")
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _table(cells: Sequence[Cell]) -> str:
    rows = "".join(_row(span) for span in join_cells(cells))
    return (
        "<table><thead><tr><th>runtime</th><th>target</th><th>answer</th><th>why</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def _row(span: Span) -> str:
    cell = span.first
    why = "<br>".join(
        escape(reason.message) + (f" <small>→ {escape(reason.fix)}</small>" if reason.fix else "")
        for reason in cell.answer.reasons
    )
    promised = " <small>promised</small>" if cell.promised else ""
    answer = f"{_MARKS[cell.answer.outcome]} <small>{escape(cell.answer.source)}</small>"
    return (
        f"<tr><td>{escape(cell.runtime)} {escape(span.versions)}{promised}</td><td>{escape(cell.target)}</td>"
        f'<td class="{cell.answer.outcome}">{answer}</td>'
        f"<td>{why}</td></tr>"
    )

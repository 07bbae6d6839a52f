# SPDX-License-Identifier: Apache-2.0
"""The forms of a passport's page: sections, tables, numbers and lines of HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from packager.canonical import JSON
from packager.escape import html as escape

SECTIONS = (
    ("signature", "Who signed it"),
    ("purpose", "What it is for"),
    ("policy", "What the policy says"),
    ("interface", "What it takes and returns"),
    ("needs", "What it needs"),
    ("runs", "Where it runs"),
    ("parity", "How exact it is"),
    ("provenance", "How it was made"),
    ("parts", "What it consists of"),
    ("advisories", "Known vulnerabilities"),
    ("knobs", "What can be set"),
    ("difference", "What changed"),
)


def break_lines(text: str) -> str:
    return "<br>".join(escape(line) for line in text.split("\n"))


def write_section(key: str, content: str) -> str:
    heading = f'<h2 id="{key}-title">{dict(SECTIONS)[key]}</h2>'
    return f'<section id="{key}" aria-labelledby="{key}-title">{heading}{content}</section>'


def write_table(
    caption: str, heads: Sequence[str], rows: str, *, identity: str | None = None, numbers: Iterable[int] = ()
) -> str:
    right = set(numbers)
    cells = "".join(
        f'<th scope="col"{" class=n" if index in right else ""}>{escape(head)}</th>' if head else "<td></td>"
        for index, head in enumerate(heads)
    )
    name = f' id="{identity}"' if identity else ""
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    label = escape(caption or ", ".join(head for head in heads if head))
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{label}"><table{name}>{said}'
        f"<thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def format_size(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def format_number(value: JSON) -> str:
    return "" if value is None else f"{value:.3g}"

# SPDX-License-Identifier: Apache-2.0
"""Render `docs/reference/models.md` from the verdicts under `results/`: `python -m tests.matrix.models_page` writes it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "models.md"
TITLES = {
    "sklearn": "scikit-learn: every estimator, and textbook pipelines",
    "boosted": "Boosted trees: LightGBM, XGBoost, HistGradientBoosting, CatBoost",
    "transformers": "transformers: architectures by task",
    "torch": "torch",
    "onnx": "ONNX files of other tools",
    "keras": "Keras and TensorFlow",
    "corpus": "ONNX files out of public packages",
}
VERDICTS = ("right", "refused-clear", "refused-poor", "wrong", "crash")
_INTRO = """# Models and what becomes of them

Written by `python -m tests.matrix.models_page` from verdicts that slow tests record under `tests/matrix/results`. Every
row is a model that was fitted or made by its own library, written as it is registered or saved, exported, measured as a
build measures it, and then compared with its source on fresh inputs of another seed.

*right*: within the default tolerance (1e-5 + 1e-4 relative; labels and texts equal) on all of them; the difference is
the largest seen. *refused*: one sentence with the reason and a way out, shown here. The other columns count faults:
*poorly* is a refusal without a useful word, or of a model whose graph is right; *wrong* was built and answers otherwise;
*crash* is anything that is no clear error.

Files out of public packages (`make corpus`; the list is `tests/corpus/packages.json`) were trained by others. Each goes through
`init`, `lock` and `build` as a newcomer's would, nothing edited; what was built is installed, served, and asked at every
size that the file itself takes in ONNX Runtime, up to six lengths of each axis: a size that is refused counts as wrong.
The difference is that to the file as ONNX Runtime runs it by default; as far as its own optimisation moves an output, so far
an answer may be off. Seconds and memory are those of the three commands.
"""


def rows() -> list[dict[str, Any]]:
    """Return the verdicts, by family and model."""
    found = [json.loads(line) for path in sorted(RESULTS.glob("*.jsonl")) for line in path.read_text().splitlines()]
    return sorted(found, key=lambda row: (list(TITLES).index(row["family"]), row["model"].lower(), row.get("task", "")))


def render(found: Sequence[dict[str, Any]]) -> str:
    """Return the page."""
    families = [name for name in TITLES if any(row["family"] == name for row in found)]
    return "\n".join(
        [_INTRO, *_summary(families, found), *(part for name in families for part in _family(name, found))]
    )


def _summary(families: Sequence[str], found: Sequence[dict[str, Any]]) -> list[str]:
    head = [
        "| family | models | right | refused | poorly | wrong | crash |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines = []
    for name in families:
        counts = Counter(row["verdict"] for row in found if row["family"] == name)
        lines.append(f"| {TITLES[name]} | {sum(counts.values())} | {' | '.join(str(counts[v]) for v in VERDICTS)} |")
    return [*head, *lines, ""]


def _family(name: str, found: Sequence[dict[str, Any]]) -> list[str]:
    own = [row for row in found if row["family"] == name]
    costs = any("seconds" in row and "megabytes" in row for row in own)
    lines = [
        f"| {_title(row)} | {_verdict(row)} | {_difference(row)} | {_cost(row) if costs else ''}"
        f"{_cell(row.get('reason', ''))} |"
        for row in own
    ]
    return [
        f"## {TITLES[name]}",
        "",
        f"| model | verdict | difference | {'sizes | seconds | MB | ' if costs else ''}reason |",
        f"| --- | --- | ---: | {'---: | ---: | ---: | ' if costs else ''}--- |",
        *lines,
        "",
    ]


def _cost(row: dict[str, Any]) -> str:
    return f"{row.get('sizes', '')} | {row['seconds']:.0f} | {row['megabytes']} | "


def _title(row: dict[str, Any]) -> str:
    return _cell(f"{row['model']}, {row['task']}" if row.get("task") else row["model"])


def _verdict(row: dict[str, Any]) -> str:
    return {"refused-clear": "refused", "refused-poor": "refused poorly"}.get(row["verdict"], row["verdict"])


def _difference(row: dict[str, Any]) -> str:
    worst = row.get("max_abs")
    return "" if worst is None or row["verdict"] != "right" else "0" if worst == 0 else f"{worst:.0e}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace(" / None", "")


if __name__ == "__main__":
    PAGE.write_text(render(rows()))

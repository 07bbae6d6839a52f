# SPDX-License-Identifier: Apache-2.0
"""The same raw rows to the source's library and through every way in: `python -m tests.matrix.raw_ways FOLDER`.

`--pipelines` and `--ways` choose some, by parts of their names. Every pipeline and way is a line of
`FOLDER/raw-ways.jsonl`; those that are there are not run again. A cell is the largest difference to the source over
all rows, `equal`, or what the way said to the first row that it did not take.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from tests.matrix.raw_calls import WAYS, Refused
from tests.matrix.raw_sources import PIPELINES, Raw

RECORD = "raw-ways.jsonl"
LIBRARIES = ("transformers", "sentence-transformers", "torch", "scikit-learn", "xgboost-cpu", "mlflow", "onnxruntime")
OTHERS = "bentoml 1.4.39, mlserver 1.7.1, tritonserver of nvidia-pytriton 0.7.0 with onnxruntime 1.23.2"
_TENSORS = ("missing required input", "unexpected inference input", "validation error for Input")


class OtherAnswer(Exception):
    """An answer that is of another form, or names something else."""


def largest_difference(expected: Any, got: Any) -> float:
    """Return the largest difference of two numbers at one place. Raises OtherAnswer where anything else differs."""
    if isinstance(expected, Mapping):
        if not isinstance(got, Mapping) or set(expected) != set(got):
            raise OtherAnswer(f"expected {sorted(expected)}, got {sorted(got) if isinstance(got, Mapping) else got}")
        return max((largest_difference(expected[key], got[key]) for key in expected), default=0.0)
    if isinstance(expected, np.ndarray):
        if expected.shape != got.shape:
            raise OtherAnswer(f"expected the shape {expected.shape}, got {got.shape}")
        return float(abs(expected - got).max(initial=0.0))
    if isinstance(expected, list):
        if not isinstance(got, list) or len(expected) != len(got):
            raise OtherAnswer(f"expected {len(expected)} items, got {len(got) if isinstance(got, list) else got}")
        return max((largest_difference(*pair) for pair in zip(expected, got, strict=True)), default=0.0)
    if isinstance(expected, int | float) and isinstance(got, int | float):
        gap = abs(expected - got)
        return gap if np.isfinite(gap) else float("inf")
    if expected != got:
        raise OtherAnswer(f"expected `{expected}`, got `{got}`")
    return 0.0


def cell(raw: Raw, way: str, folder: Path) -> str:
    """Ask one way and return what the table says of it."""
    try:
        answers = WAYS[way](raw, folder)
        if len(answers) != len(raw.rows):
            raise OtherAnswer(f"{len(raw.rows)} rows, {len(answers)} answers")
        gap = largest_difference(list(raw.expected), [raw.comparable(answer) for answer in answers])
    except Refused as error:
        said = " ".join(str(error).split())
        return "takes tensors" if any(words in said for words in _TENSORS) else f"refused: {said[:160]}"
    except OtherAnswer as error:
        return f"other: {str(error)[:160]}"
    return f"{gap:.1e}" if gap else "equal"


def known(record: Path) -> dict[tuple[str, str], str]:
    """Return the cells that were run before."""
    lines = record.read_text().splitlines() if record.exists() else []
    rows = [json.loads(line) for line in lines]
    return {(row["pipeline"], row["way"]): row["cell"] for row in rows}


def fill(folder: Path, pipelines: Sequence[str], ways: Sequence[str]) -> None:
    """Run what is missing; a failure is shown, and its cell stays empty."""
    record = folder / RECORD
    for pipeline in pipelines:
        missing = [way for way in ways if (pipeline, way) not in known(record)]
        if not missing:
            continue
        with tempfile.TemporaryDirectory(dir=folder) as place:
            raw = PIPELINES[pipeline](Path(place))
            for way in missing:
                begun = time.monotonic()
                try:
                    found = cell(raw, way, Path(place))
                except Exception:  # of whatever a way is made of
                    traceback.print_exc()
                    continue
                row = {"pipeline": pipeline, "way": way, "cell": found, "seconds": round(time.monotonic() - begun, 1)}
                with record.open("a") as sink:
                    sink.write(json.dumps(row) + "\n")
                print(f"{pipeline}, {way}: {found} ({row['seconds']} s)", flush=True)


def table(cells: Mapping[tuple[str, str], str]) -> str:
    """Return the cells as a Markdown table."""
    lines = [f"| pipeline | {' | '.join(WAYS)} |", "| --- |" + " --- |" * len(WAYS)]
    for pipeline in PIPELINES:
        lines.append(f"| {pipeline} | {' | '.join(cells.get((pipeline, way), '') for way in WAYS)} |")
    return "\n".join(lines)


def _chosen(names: Mapping[str, Any], parts: Sequence[str] | None) -> list[str]:
    return [name for name in names if not parts or any(part.casefold() in name.casefold() for part in parts)]


def main() -> None:
    """Fill the table in a directory and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pipelines", nargs="+")
    parser.add_argument("--ways", nargs="+")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    fill(chosen.folder, _chosen(PIPELINES, chosen.pipelines), _chosen(WAYS, chosen.ways))
    print(table(known(chosen.folder / RECORD)))
    print(f"\n{', '.join(f'{name} {metadata.version(name)}' for name in LIBRARIES)}, {OTHERS}")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""One row of the sweep over transformers: written, exported, measured as a build does, and measured once more.

right            every measured case is within the recipe's default tolerance, under another seed as well
refused-clear    a sentence of ours that names the cause
refused-poor     a foreign error inside ours, or differences that the build's own measurement finds
wrong            the build's measurement holds and that of another seed does not
crash            anything that is not an error of ours
"""

from __future__ import annotations

import gc
import json
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from packager.errors import PackagerError
from packager.steps import export, measure
from tests.matrix import transformers_models, verdicts

LEVEL = {"opset": 18, "ir": 8}
LIMIT = 180  # seconds of processor time of a row
_FOREIGN = re.compile(r"\b[A-Z]\w*(?:Error|Exception|Violation|Guard\w*|Unsupported|NotImplemented)\b|could not be")


def sweep(out: Path, rows: Iterable[tuple[str, str]], seconds: float = float("inf")) -> Iterator[dict[str, Any]]:
    """Append a JSON line to `out` for every row that it has no line of yet, until the time is spent."""
    done = {(row["model"], row["task"]) for row in read(out)}
    started = time.monotonic()
    for kind, task in rows:
        if (kind, task) in done or time.monotonic() - started > seconds:
            continue
        with out.open("a") as file:
            row = judge(kind, task)
            file.write(json.dumps(row) + "\n")
        yield row


def read(out: Path) -> list[dict[str, Any]]:
    """Return the rows of a sweep."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.is_file() else []


def judge(kind: str, task: str) -> dict[str, Any]:
    """Return the row of a small model: narrow if the architecture allows that, else as wide as it is by default."""
    started = time.monotonic()
    signal.signal(signal.SIGPROF, _give_up)
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    found = {"verdict": "unbuilt", "max_abs": None, "reason": "no small configuration"}
    for narrow in (True, False):
        with tempfile.TemporaryDirectory() as folder:
            try:
                dynamic = transformers_models.write(kind, task, Path(folder), narrow=narrow)
            except Exception as error:  # the shrunk configuration does not fit together
                if found["verdict"] == "unbuilt":
                    found["reason"] = f"{type(error).__name__}: {error}"[:200]
                continue
            found = verdict(Path(folder), dynamic)
        gc.collect()
        if "does not take its inputs" not in found["reason"]:
            break
    signal.setitimer(signal.ITIMER_PROF, 0)
    spent = round(time.monotonic() - started, 1)
    return {"family": "transformers", "model": kind, "task": task, **found, "seconds": spent}


def _give_up(*_: object) -> None:
    raise TimeoutError(f"longer than {LIMIT} s")


def verdict(source: Path, dynamic: Mapping[str, list[int]]) -> dict[str, Any]:
    """Export a directory, measure it under two seeds and judge what came of it."""
    try:
        with tempfile.TemporaryDirectory() as tree:
            params = {"kind": "transformers", "payload": ".", **LEVEL, "seed": 0, "dynamic": dict(dynamic)}
            facts = export.run({"source": source}, Path(tree), params)
            return _compared(source, Path(tree), {**params, **facts})
    except PackagerError as error:
        kind = "refused-poor" if _FOREIGN.search(str(error)) else "refused-clear"
        return {"verdict": kind, "max_abs": None, "reason": str(error)[:300]}
    except Exception as error:
        return {"verdict": "crash", "max_abs": None, "reason": f"{type(error).__name__}: {error}"[:300]}


def _compared(source: Path, tree: Path, params: Mapping[str, Any]) -> dict[str, Any]:
    worst = 0.0
    known = {"interface": params["interface"], "ranges": params["ranges"], "outputs": ()}
    for seed, missed in ((0, "refused-poor"), (1, "wrong")):
        wanted = {**params, **known, "seed": seed, "runtime": "onnxruntime", "path": "model/model.onnx"}
        with tempfile.TemporaryDirectory() as out:
            measured = measure.run({"source": source, "artefact": tree}, Path(out), wanted)
        found = [one for case in measured["cases"] for one in case["outputs"].values()]
        worst = max([worst, *(one.get("max_abs", 0.0) for one in found)])
        findings = verdicts.findings(params["interface"], measured)
        if findings:
            return {"verdict": missed, "max_abs": worst, "reason": findings[0][:300]}
    return {"verdict": "right", "max_abs": worst, "reason": ""}


def main(out: str, *chosen: str) -> None:
    """Sweep into a file: `python -m tests.matrix.transformers_sweep OUT [TASK|MODEL …]`."""
    rows = [row for row in transformers_models.rows() if not chosen or set(row) & set(chosen)]
    for row in sweep(Path(out), rows):
        print(
            f"{row['verdict']:14} {row['seconds']:6} {row['model']:28} {row['task']:24} {row['reason'][:150]}",
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])

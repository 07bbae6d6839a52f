# SPDX-License-Identifier: Apache-2.0
"""What becomes of one model on its way through exporter and measurement, as a row for `docs/reference/models.md`.

*right*: built, every output within the default tolerance on the build's own cases and on fresh rows of another seed.
*refused clearly*: one sentence that names what stands in the way, and a way out. *refused poorly*: a refusal without
that, or of a model whose graph is right on fresh rows. *wrong*: built, and off on fresh rows. *crash*: no PackagerError.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from packager.policies import parity

from packager import exporters
from packager.errors import PackagerError
from packager.exporters import ExportOptions
from packager.steps import _compare, export, measure

RESULTS = Path(__file__).parent / "results"
TOLERANCE = {"atol": 1e-5, "rtol": 1e-4}  # the default of a recipe
LEVEL = {"opset": 18, "ir": 8, "seed": 0}
VERDICTS = ("right", "refused-clear", "refused-poor", "wrong", "crash")
_FOREIGN = re.compile(
    r"\b[A-Z]\w*(Error|Exception|Warning|Argument): |Traceback|github\.com|raise an issue|does not run"
)


@dataclass(frozen=True)
class Row:
    family: str
    model: str
    verdict: str
    max_abs: float | None = None
    reason: str = ""

    def line(self) -> str:
        return json.dumps({key: value for key, value in asdict(self).items() if value not in (None, "")})


def judge(
    family: str, name: str, source: Path, out: Path, fresh: Callable[[Any], Mapping[str, Any]], **params: Any
) -> Row:
    """Export and measure the source in this process; `fresh` draws rows for an interface from another seed.

    `params` are further ones of the steps, as a recipe would state them.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _judged(family, name, source, out, fresh, params)
    except PackagerError as error:
        clear = bool(error.hint) and not _FOREIGN.search(f"{error.message} {error.hint}")
        reason = f"{error.message} / {error.hint}"
        return Row(family, name, "refused-clear" if clear else "refused-poor", reason=reason[:400])
    except Exception as error:
        return Row(family, name, "crash", reason=f"{type(error).__name__}: {error}"[:400])


def detected(source: Path) -> tuple[str, str]:
    paths = [path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()]
    return exporters.detect_kind(paths, lambda path: (source / path).read_bytes())


def _judged(
    family: str,
    name: str,
    source: Path,
    out: Path,
    fresh: Callable[[Any], Mapping[str, Any]],
    params: Mapping[str, Any],
) -> Row:
    kind, payload = detected(source)
    out.mkdir(parents=True, exist_ok=True)
    common = {"kind": kind, "payload": payload, **LEVEL, **params}
    facts = export.run({"source": source}, out, common)
    known = {"interface": facts["interface"], "ranges": facts["ranges"], "runtime": "onnxruntime"}
    done = measure.run({"source": source, "artefact": out}, out, {**common, **known, "path": "model/model.onnx"})
    refused = findings(facts["interface"], done)
    opened = exporters.exporter(kind).load(source, payload, ExportOptions.from_params(common))
    session = measure.open_session("onnxruntime", out / "model" / "model.onnx")
    worst, off = beside(opened, session, facts["interface"], accepted(opened, fresh(facts["interface"])))
    if refused:
        return Row(family, name, missed(refused[0]), worst, f"parity: {refused[0]}"[:400])
    return Row(family, name, "wrong" if off else "right", worst, off)


def missed(finding: str) -> str:
    """Return the verdict of a model that parity refuses: clear where the model's own rounding is the cause."""
    return "refused-clear" if "the model amplifies rounding" in finding else "refused-poor"


def accepted(source: Any, feeds: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the rows that the source takes: what it refuses (a negative count, an unseen category) is no promise."""
    count = len(next(iter(feeds.values())))
    if count and not _takes(source, feeds):
        positive = {name: abs(values) if values.dtype.kind in "fi" else values for name, values in feeds.items()}
        if _takes(source, positive):
            return positive
        half = {name: (values[: count // 2], values[count // 2 :]) for name, values in feeds.items()}
        parts = (
            [accepted(source, {name: pair[side] for name, pair in half.items()}) for side in (0, 1)]
            if count > 1
            else []
        )
        kept = [part for part in parts if len(next(iter(part.values())))]
        return {
            name: np.concatenate([part[name] for part in kept]) if kept else values[:0]
            for name, values in feeds.items()
        }
    return feeds


def _takes(source: Any, feeds: Mapping[str, Any]) -> bool:
    try:
        source.run(feeds)
    except Exception:
        return False
    return True


def findings(interface: Any, done: Any) -> list[str]:
    """Return what the rule `parity` says of a measurement under the default tolerance."""
    tolerance = {port["name"]: TOLERANCE for port in interface["outputs"]}
    target = {**done, "precision": "fp32", "tolerance": tolerance, "unmeasured": None}
    found = parity.check({"targets": {"it": target}})
    return [f"{item.message} / {item.hint}" for item in found if item.level == "error"]


def beside(source: Any, session: Any, interface: Any, feeds: Mapping[str, Any]) -> tuple[float, str]:
    """Return the largest difference on fresh rows, and in words what is out of tolerance."""
    worst, off = 0.0, ""
    if not len(next(iter(feeds.values()))):
        return worst, off  # the source takes none of them: its own values were measured
    expected, got = exporters.mask_for_comparison(
        exporters.leaves_of(source, feeds), feeds, source.run(feeds), session.run(feeds)
    )
    for place, (port, left, right) in enumerate(zip(interface["outputs"], expected, got, strict=True)):
        gaps = exporters.gaps_of(source, feeds, place, left, right)
        record = _compare.compare(left, right, gaps)
        worst = max(worst, record.get("max_abs", 0.0))
        target = {
            "cases": [{"name": "fresh rows", "outputs": {port["name"]: record}}],
            "precision": "fp32",
            "tolerance": {port["name"]: TOLERANCE},
            "unmeasured": None,
        }
        off = off or next((found.message for found in parity.check({"targets": {"it": target}})), "")
    return worst, off


def write(family: str, rows: Iterable[Row]) -> None:
    RESULTS.mkdir(exist_ok=True)
    listed = sorted(rows, key=lambda row: row.model)
    (RESULTS / f"{family}.jsonl").write_text("".join(f"{row.line()}\n" for row in listed))


def drawn(seed: int, count: int = 2000) -> Callable[[Any], dict[str, Any]]:
    """Return a function that draws rows for any table: normal and heavy-tailed numbers, whole numbers, flags, words."""

    def rows(interface: Any) -> dict[str, Any]:
        random = np.random.default_rng(seed)
        return {port["name"]: _column(random, port, count) for port in interface["inputs"]}

    return rows


def _column(random: Any, port: Any, count: int) -> Any:
    shape = (count, *(axis for axis in port["shape"][1:]))
    if port["dtype"] == "string":
        return random.choice(np.array(["red", "green", "blue", "Ösl", "unseen", ""], dtype=object), size=shape)
    if port["dtype"] == "bool":
        return random.random(shape) < 0.5
    if port["dtype"].startswith("int"):
        return random.integers(-5, 30, size=shape).astype(port["dtype"])
    wide = random.standard_normal(shape) * np.exp(random.standard_normal(shape))
    return np.round(wide, 3).astype(port["dtype"]) if port["dtype"] == "float64" else wide.astype(port["dtype"])

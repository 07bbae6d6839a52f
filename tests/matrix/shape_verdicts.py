# SPDX-License-Identifier: Apache-2.0
"""What becomes of a model of tensors: exported and measured by the steps of a build, then again from another seed.

The verdicts are those of `verdicts`; *wrong* is what the first measurement lets pass and another seed does not.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from packager.policies import deterministic

from packager.errors import PackagerError
from packager.steps import export, measure
from tests.matrix import verdicts
from tests.matrix.verdicts import Row
from tests.unit.exporters.conftest import detected

FRESH = (11, 12)  # seeds; a build has 0


def judged(family: str, name: str, source: Path, out: Path, **options: Any) -> Row:
    """Return the row of a source; `options` are what a recipe says of inputs and dimensions."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _judged(family, name, source, out, options)
    except PackagerError as error:
        clear = bool(error.hint) and not verdicts._FOREIGN.search(f"{error.message} {error.hint}")
        reason = f"{error.message} / {error.hint}"[:400]
        return Row(family, name, "refused-clear" if clear else "refused-poor", reason=reason)
    except Exception as error:
        return Row(family, name, "crash", reason=f"{type(error).__name__}: {error}"[:400])


def _judged(family: str, name: str, source: Path, out: Path, options: dict[str, Any]) -> Row:
    kind, payload = detected(source)
    out.mkdir(parents=True)
    common = {"kind": kind, "payload": payload, **verdicts.LEVEL, **options}
    facts = export.run({"source": source}, out, common)
    for finding in deterministic.check(facts):
        return Row(family, name, "refused-clear", reason=f"{finding.message} / {finding.hint}")

    def measured(seed: int) -> Any:
        known = {"interface": facts["interface"], "ranges": facts["ranges"], "runtime": "onnxruntime", "seed": seed}
        folder = out / str(seed)
        folder.mkdir()
        inputs = {"source": source, "artefact": out}
        return measure.run(inputs, folder, {**common, **known, "path": "model/model.onnx"})

    refused = verdicts.findings(facts["interface"], measured(verdicts.LEVEL["seed"]))
    if refused:
        return Row(family, name, verdicts.missed(refused[0]), reason=f"parity: {refused[0]}"[:400])
    fresh = [measured(seed) for seed in FRESH]
    off = [finding for done in fresh for finding in verdicts.findings(facts["interface"], done)]
    return Row(family, name, "wrong" if off else "right", max(map(_largest, fresh)), "".join(off[:1])[:400])


def _largest(done: Any) -> float:
    outputs = [output for case in done["cases"] for output in case["outputs"].values()]
    return max((float(output.get("max_abs", output.get("unequal", 0))) for output in outputs), default=0.0)

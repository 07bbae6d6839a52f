# SPDX-License-Identifier: Apache-2.0
"""Run one hostile step as a build would, and print what came of it: `python -m tests.attacks.hostile_step STORE FILE SECONDS [forked]`.

FILE is Python source. A pickle brings it into the worker that opens a source by consent: from there it has all that a
source can have, and SECONDS; `forked`, in a worker that a fork server made. Printed is one JSON object: `error` and `log`, or `tree` and `facts`; and `seconds`.
"""

from __future__ import annotations

import json
import pickle
import sys
import time
from pathlib import Path

from packager import plugins
from packager.actions.runner import Runner
from packager.errors import PackagerError
from packager.sandbox import warm
from packager.sandbox.sandbox import Limits
from packager.store.store import Store
from packager.types import Action, Tree

MEMORY, PROCESSES = 1 << 30, 64


class Payload:
    """Runs its source when it is unpickled."""

    def __init__(self, source: str) -> None:
        self.source = source

    def __reduce__(self) -> tuple[object, tuple[str, dict[str, object]]]:
        return exec, (self.source, {})


def main(store: Path, file: Path, seconds: float, forked: bool) -> None:
    """Open the store as every verb does, and take the payload through the export step."""
    opened = Store(store)
    opened.sweep()
    source = Tree.of({"model.pkl": opened.put(pickle.dumps(Payload(file.read_text())))})
    opened.put_tree(source)
    kind = "sklearn-pickle" if forked else "sklearn_pickle"  # servers are for kinds as locks write them
    params = {"kind": kind, "payload": "model.pkl", "opset": 17, "ir": 8}
    action = Action("export", plugins.load("steps", "export").VERSION, {"source": source.digest}, params)
    started = time.monotonic()
    try:
        result = Runner(opened, Limits((2 if forked else 1) * MEMORY, int(seconds), processes=PROCESSES))(
            action, "export"
        )
        said = {"tree": opened.tree(result.tree).to_json(), "facts": result.facts}
    except PackagerError as error:
        said = {"error": error.message, "hint": error.hint, "code": error.code, "log": getattr(error, "log", "")}
    assert bool(warm.find_running(opened.root / "tmp")) == forked, "how it ran, and that the server has survived"
    print(json.dumps({**said, "seconds": time.monotonic() - started}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4:] == ["forked"])

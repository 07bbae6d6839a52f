# SPDX-License-Identifier: Apache-2.0
"""The worker: the process in which a step runs, `python -m packager.sandbox.worker JOB.json`.

The job is plain data: an action, where its inputs lie, where its output goes. The answer is one JSON document on a
descriptor: facts, or an error with a hint. Everything else the step prints ends up in the log, which is shown when it
fails.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import importlib
import importlib.metadata
import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from packager import canonical
from packager.canonical import JSON
from packager.errors import MissingToolError, PackagerError, StepError, TooNewError
from packager.sandbox.sandbox import Limits, apply_limits


def main(job_file: str) -> int:
    """Perform the job and write its answer; exit 0 if there is a result, 28 (ENOSPC) if the disk is full."""
    faulthandler.enable()  # where a library crashes below Python, the log names the call
    job = json.loads(Path(job_file).read_bytes())
    try:
        answer: JSON = {"facts": perform(job)}
    except PackagerError as error:
        answer = {"error": {"message": error.message, "hint": error.hint}}
        if error.edits:
            answer["error"]["edits"] = [edit.to_json() for edit in error.edits]
        if isinstance(error, TooNewError):  # the caller knows the promises, and names the one that is not met
            answer["error"]["needs"] = [error.operator, error.opset, error.wanted]
    except MemoryError:
        answer = {"error": {"message": "the step ran out of memory", "hint": _MEMORY_HINT}}
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return errno.ENOSPC  # there may be no room for an answer; the exit status needs none
    except ImportError as error:
        answer = {"error": _import_error(error)}
    with os.fdopen(job["answer"], "wb") as sink:
        sink.write(canonical.dump(answer))
    return 0 if "facts" in answer else 4


_MEMORY_HINT = "raise `limits: {memory: …}` in the recipe, or use a machine with more memory"
_IMPORT_HINT = "compare `packager lock` with the packages installed here"


def _import_error(error: ImportError) -> JSON:
    """Distinguish an absent library from one that did not fit into memory; the loader reports both alike."""
    if "map segment" in str(error) or "allocate memory" in str(error):
        return {"message": "the step ran out of memory while it loaded its libraries", "hint": _MEMORY_HINT}
    return {"message": f"cannot import what the step needs: {error}", "hint": _IMPORT_HINT}


def perform(job: Mapping[str, JSON]) -> JSON:
    """Check the tools of this process, which is confined already, and run the step."""
    action = job["action"]
    if job["limits"]:
        apply_limits(Limits(**job["limits"]))
    check_toolchain(action["toolchain"])
    step = importlib.import_module(f"packager.steps.{action['step']}")
    inputs = {role: Path(path) for role, path in job["inputs"].items()}
    if job["channel"] is None:
        return step.run(inputs, Path(job["out"]), action["params"])
    with socket.socket(fileno=job["channel"]) as channel:
        if job["serves"]:
            return step.serve(inputs, action["params"], channel)
        return step.run_apart(inputs, Path(job["out"]), action["params"], channel)


def check_toolchain(wanted: Mapping[str, str]) -> None:
    """Refuse to run with other tools than the action names: they may produce other bytes."""
    for name, version in wanted.items():
        found = host_version(name)
        if found != version:
            raise StepError(
                f"toolchain differs from the lock: expected {name} {version}, got {found}",
                hint=f"{_say_how_to_have(name, version)}, or accept this host with `packager lock`",
            )


def _say_how_to_have(name: str, version: str) -> str:
    """Return the remedy for a tool of another version; a processor and an interpreter are not packages."""
    if name == "machine":
        return f"build on a machine of `{version}`"
    return f"run it with Python {version}" if name == "python" else f'install it (`pip install "{name}=={version}"`)'


def host_version(name: str, extra: str = "build") -> str:
    """Return the version of a tool here: `python` as major.minor, `machine`, or a distribution's public version.

    Raises MissingToolError, which names `extra`.
    """
    if name == "python":
        return f"{sys.version_info.major}.{sys.version_info.minor}"
    if name == "machine":
        import platform

        return f"{platform.system()}-{platform.machine()}".lower()
    for distribution in (name, *_ALSO_CALLED.get(name, ())):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(distribution)
            return version.partition("+")[0]  # `+cpu` says how it was built, not what it is
    raise MissingToolError(name, extra)


_ALSO_CALLED = {
    "xgboost": ("xgboost-cpu",),
    "tensorflow": ("tensorflow-cpu",),
    "onnxruntime": ("onnxruntime-gpu",),
    "tensorrt": ("tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu13-bindings", "tensorrt-cu12-bindings"),
}
"""The same library in another wheel: one lock serves both."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

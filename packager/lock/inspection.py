# SPDX-License-Identifier: Apache-2.0
"""Inspect a source before there is a recipe: what it takes and returns, found by opening it in a confined worker.

Only kinds are opened that hold data and whose files say too little of themselves; nothing of an author's code runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packager import exporters, plugins, sources
from packager.actions.runner import Runner
from packager.bundle.bundle import INSTALLED
from packager.canonical import JSON
from packager.errors import SourceError
from packager.recipe.lengths import Lengths
from packager.sandbox.sandbox import Limits
from packager.sandbox.worker import host_version
from packager.types import Action, Tree

SECONDS = 60  # that a model is run for
LIMITS = Limits(memory=8 << 30, seconds=4 * SECONDS)


def can_inspect(kind: str) -> bool:
    """Say whether sources of a kind are opened before there is a recipe."""
    module = exporters.exporter(kind)
    return not module.EXECUTES and hasattr(module, "describe")


def run_look(files: Mapping[str, Path], kind: str, payload: str, runner: Runner) -> JSON:
    """Return what `steps.look` finds in a source of these files. Raises StepError, MissingToolError."""
    blobs = {}
    for path, file in files.items():
        with file.open("rb") as opened:
            blobs[path] = runner.store.add(opened)
    tree = runner.store.put_tree(Tree.of(blobs))
    tools = {name: host_version(name) for name in ("python", "machine", *exporters.exporter(kind).TOOLCHAIN)}
    params: dict[str, JSON] = {"kind": kind, "payload": payload, "seconds": SECONDS}
    action = Action("look", plugins.load("steps", "look").VERSION, {"source": tree.digest}, params, tools)
    return runner(action, f"look into {payload}", limits=LIMITS).facts


def files_of(path: Path) -> dict[str, Path]:
    """Return the files of a source on this machine, by path: those of a directory, or a file with what it needs."""
    if path.is_dir():
        return sources.regular_files(path)
    found: dict[str, Path] = plugins.load("sources", "file").list_files(path)
    return found


def source_files(text: str) -> dict[str, Path] | None:
    """Return the files of a source on this machine by path; None for what is a bundle, or is elsewhere."""
    path = Path(text)
    if path.is_file() and not text.lower().endswith(".tar"):
        return files_of(path)
    if path.is_dir() and not any(
        (path / mark).exists() for mark in ("oci-layout", "index.json", ".packager", INSTALLED)
    ):
        return files_of(path)
    return None


@dataclass(frozen=True, slots=True)
class InspectedModel:
    """A model file as it was opened: its kind, the file that was read, and inputs, dimensions and outputs as JSON."""

    kind: str
    payload: str
    found: Mapping[str, JSON]

    def describe(self) -> list[str]:
        """Return inputs, dimensions and outputs as lines of text."""
        return render_lines(self.found)


def inspect(files: Mapping[str, Path], runner: Runner) -> tuple[str, str, JSON]:
    """Return kind and payload of a source, and what opening it says. Raises SourceError where opening runs code."""
    kind, payload = exporters.detect_kind(files, lambda path: files[path].read_bytes())
    if exporters.exporter(kind).EXECUTES:
        raise SourceError(
            f"`{payload}` runs its author's code when it is opened",
            hint="write a recipe with `packager init`; `build` opens it in the sandbox when the recipe allows that",
        )
    return kind, payload, run_look(files, kind, payload, runner)


# -- what was found, for people


def render_lines(found: JSON) -> list[str]:
    """Return inputs, dimensions and outputs as a table of text."""
    rows = [f"  input   {port['name']}: {_tensor(port)}{_about(port)}" for port in found["inputs"]]
    rows += [f"  axis    {name}: {describe_span(span)}" for name, span in found["dimensions"].items()]
    rows += [f"  axis    {name}: {length} ran, no other did" for name, length in found.get("fixed", {}).items()]
    rows += [f"  output  {port['name']}: {_tensor(port)}" for port in found["outputs"]]
    if "failed" in found:
        rows.append(f"  it did not run at any of the {found['runs']} sizes that were tried: {found['failed']}")
    return rows


def _tensor(port: JSON) -> str:
    return f"{port['dtype']}[{', '.join(map(str, port['shape']))}]"


def _about(port: JSON) -> str:
    return "".join(f"  ({note})" for note in describe_input(port))


def describe_input(port: JSON) -> Iterator[str]:
    """Yield what is worth saying of an input: the values that ran, and the output that feeds it."""
    if "values" in port:
        others = (
            "each takes other lengths, and other values run like one of them"
            if "alike" in port
            else "other values fail"
        )
        yield f"ran with {', '.join(map(str, port['values']))}; {others}"
    if "state" in port:
        yield f"state: output `{port['state']}` is its next value"


def describe_span(span: JSON) -> str:
    """Return in one line which lengths of an axis ran."""
    beyond = "longer ones fail" if span["limited"] else "longer ones were not tried"
    beyond += "; with other values of single numbers others run, too" if span.get("varies") else ""
    if "kind" not in span:
        return f"from {span['min']} to {span['max']}"
    if span["kind"] == "any":
        return f"any length from {span['low']} to {span['high']} ran; {beyond}"
    if span["kind"] == "steps":
        ran = str(Lengths(span["low"], span["high"], span["step"], (), *map(tuple, (span["remainders"], span["also"]))))
        return f"{ran} ran, others fail; {beyond}"
    if span["kind"] == "some":
        return f"ran at {', '.join(map(str, span['ran'][:12]))}{' …' if len(span['ran']) > 12 else ''}, fails between"
    return f"{span['low']} ran; no others were tried"

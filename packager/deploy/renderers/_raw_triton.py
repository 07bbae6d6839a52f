# SPDX-License-Identifier: Apache-2.0
"""What a model of a Triton repository has besides where it takes rows as people have them, not tensors.

    <name>/<N>/raw.py        the pipeline around the graph of model.py
    <name>/<N>/pipeline/     the files of the bundle's pipeline
    <name>/<N>/packager/     the code of `packager serve` that runs it

Inputs are the columns of a row as BYTES, outputs the answers of `packager serve`; both have rows as their first
dimension, which Triton does not batch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePosixPath

from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.deploy import server_files
from packager.deploy.renderers._modelconfig import Field, build_tensor
from packager.errors import UsageError
from packager.formats.wheel_locks import INDEX
from packager.server.pipeline import document
from packager.server.pipeline.document import Document

SCRIPT = "raw.py"
_ENGINE = "onnxruntime"
_LOCKS = ("triton", _ENGINE)  # whose pins are taken: the first that has them
_ROWS = "rows"


@dataclass(frozen=True, slots=True)
class RawModel:
    """The pipeline of a bundle: what a record says of it, files of the bundle by name beside `raw.py`, and ours."""

    about: Document
    record: Mapping[str, JSON]
    files: Mapping[str, str]
    made: Mapping[str, bytes]

    def inputs(self) -> list[Field]:
        """Return the columns of a row."""
        found: list[Field] = [build_tensor(name, "string", (_ROWS,), False) for name in self.about.columns]
        more = [{**build_tensor(name, "string", (_ROWS,), False), "optional": True} for name in self.about.optional]
        return [*found, *more]

    def outputs(self) -> list[Field]:
        """Return the answers."""
        return [build_tensor(name, dtype, shape, False) for name, dtype, shape in self.about.outputs]


def build_raw(bundle: Bundle, backend: str) -> RawModel:
    """Return what is rendered besides. Raises UsageError for a bundle without a pipeline, and for another backend."""
    named = bundle.contract.pipeline
    if named is None:
        raise UsageError(
            f"`{bundle.name}` has no pipeline: it takes tensors", hint="leave --raw out, or build it with `pipeline:`"
        )
    if backend != "python":
        raise UsageError("--raw is for the Python backend, which runs the pipeline", hint="add `--backend python`")
    try:
        about = document.parse(bundle.read(named.path))
    except ValueError as error:
        raise UsageError(f"the pipeline of `{bundle.name}` cannot be read: {error}") from None
    folder = PurePosixPath(named.path).parent
    files = {
        str(PurePosixPath("pipeline") / PurePosixPath(path).relative_to(folder)): path
        for path in server_files.list_pipeline(bundle)
    }
    program = {path: data for path, data in server_files.list_program(_ENGINE).items() if path.startswith("packager/")}
    script = resources.files("packager.templates").joinpath(f"triton/{SCRIPT}").read_bytes()
    place = f"pipeline/{PurePosixPath(named.path).name}"
    record = {"pipeline": {"path": place, "digest": named.digest}, "libraries": _libraries(bundle, about)}
    return RawModel(about, record, files, {**program, SCRIPT: script})


def _libraries(bundle: Bundle, about: Document) -> dict[str, JSON]:
    """Return the versions of libraries that can change an answer, as the bundle locks them. Raises UsageError."""
    wanted = [name for name, part in (("tokenizers", about.text), ("pillow", about.image)) if part]
    for runtime in _LOCKS:
        path = f"deps/{runtime}/{INDEX}"
        text = bundle.read(path).decode() if bundle.tree.get(path) is not None else ""
        pins = dict(re.findall(r"^([A-Za-z0-9][^=\s;]*)==([^\s;\\]+)", text, re.MULTILINE))
        if set(wanted) <= set(pins):
            return {name: pins[name] for name in wanted}
    raise UsageError(
        f"`{bundle.name}` locks no version of {' and '.join(wanted)}",
        hint="lock and build it again, with `packager lock`",
    )

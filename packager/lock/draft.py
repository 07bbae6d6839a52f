# SPDX-License-Identifier: Apache-2.0
"""Draft a recipe for a source: text for a person to edit, which parses as it stands."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from typing import TypeAlias

from packager import escape, exporters, plugins, sources
from packager.actions.scan import CODE
from packager.canonical import JSON
from packager.contract import runtime_tables
from packager.errors import MissingToolError, PackagerError, SourceError
from packager.files import digest_of
from packager.lock import library_ages, origins
from packager.lock.inspection import can_inspect, describe_input, describe_span, files_of, render_lines
from packager.pipelines import propose
from packager.sandbox.worker import host_version
from packager.strictyaml import Scalar, Where
from packager.types import Tree

SCHEMA = "recipe.schema.json"
"""Where an editor finds the schema, as seen from the recipe: the one place to change once it has a public address."""

_PLAIN = re.compile(r"[A-Za-z0-9./_][A-Za-z0-9./_@+-]*(:/[A-Za-z0-9./_@+-]+)?")
_COMMON = ("model", "net", "network", "weights")  # what files are called whose folder has the name
_EXAMPLE = {"image": {"dtype": "float32", "shape": ["batch", 3, 224, 224], "range": [0, 1]}}
_LONGEST = 256 << 20  # bytes of a file that are read to recognise it
_TIMEOUT = 5  # seconds a registry has to answer while a recipe is drafted
_PACKED = r"(\.(gz|z|bz2|xz|lzma|lz4))?"
_ENDING = "(" + "|".join(map(re.escape, (*sources.SINGLE_FILES, *sources.LOOSE_FILES, ".bundle.tar"))) + f"){_PACKED}$"
_PICKLE = "# allow-pickle: false            # true: run the code inside a pickled source, in the sandbox"
_CODE = "# Code of a source's own (MLflow's `code_paths`) needs `allow-code`, with the digest that the build says."
_NAMED = 4  # files that a line names
_TOOLCHAIN = (
    "# toolchain: host                # locked: export with the versions the source was made with, in an environment "
    "of its own"
)
_PIPELINE = "# pipeline: sentence-embedding     # or {task: text-classification, max-length: 256, top: 3}, …"
_ML = "ai.onnx.ml"
_OLDEST = "1.17"  # what a recipe promises that states nothing
Inside: TypeAlias = Callable[[Mapping[str, Path], str, str], JSON]
"""Opens the files of a source of a kind, given with the payload, and returns what it takes and returns."""

_ALIAS_OR_VERSION = re.compile(r"@[^@/]*$|/([0-9]+|latest)$", re.IGNORECASE)


def draft(source: str, facts: Mapping[str, JSON] | None = None) -> str:
    """Return the text of a commented `bundle.yaml` for `source`.

    `facts` holds what is known already: `name`, `version`, `registry`, and `inputs` and `dynamic` as in a recipe; and
    what `inspect_source` found. Raises UsageError when no source reads `source`.
    """
    sources.load_for(source)
    known = facts or {}
    if known.get("base"):
        return _draft_adapter(source, known)
    text = resources.files("packager.templates").joinpath("recipe/bundle.yaml").read_text("utf-8")
    return Template(text).substitute(
        schema=SCHEMA,
        name=_scalar(known.get("name") or name_from(source)),
        version=_scalar(known.get("version") or "0.1.0"),
        source=_scalar(source) + _task(known.get("task")) + _blocks(known.get("blocks")),
        registry=_registry(known.get("registry")),
        taken=_taken(known.get("inside")),
        inputs=_promised(known["inside"]) if _ran(known) else _shapes(known.get("inputs"), known.get("dynamic")),
        oldest=json.dumps(f">={_oldest(known.get('inside'))}"),
        domains=_domains(known.get("inside")),
        pipeline=_pipeline(known.get("pipeline")),
        pickle=_line("allow-pickle: false", known.get("executes"), _PICKLE),
        code=_code(known.get("code")),
        toolchain=_toolchain(known),
    )


def _draft_adapter(source: str, known: Mapping[str, JSON]) -> str:
    """Return the recipe of an adapter: what its base promises is promised, so little is left to say."""
    base = f"base: {known['base']}:1.0.0"
    lines = [
        f"# yaml-language-server: $schema={SCHEMA}",
        f"name: {_scalar(known.get('name') or name_from(source))}",
        f"version: {_scalar(known.get('version') or '0.1.0')}",
        f"source: {_scalar(source)}",
        f"task: {known['task']}",
        f"{base:<32} # the bundle of its model in the local store, which takes `adapters`",
    ]
    return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True, slots=True)
class RecipeDraft:
    """The text of a drafted recipe, and what the source says: see `inspect_source`."""

    text: str
    found: Mapping[str, JSON]

    def describe(self) -> list[str]:
        """Return what the model takes and returns as lines of text; none where it was not looked into."""
        return render_lines(self.found["inside"]) if "inside" in self.found else []


def draft_recipe(source: str, output: Path, tracking: str | None = None, inside: Inside | None = None) -> RecipeDraft:
    """Look at `source` and draft the recipe that is to be written to `output`. Raises UsageError, SourceError."""
    found = inspect_source(source, Path(), tracking, inside)
    found |= {"name": name_from(str(Path(source).absolute()))} if Path(source).is_file() else {}
    return RecipeDraft(draft(relative_source(source, output.parent), found), found)


def _registry(address: JSON) -> str:
    """Return the line of the registry, or an example of it behind `#`."""
    return f"registry: {_scalar(address)}" if address else "# registry: sqlite:///mlflow.db   # or https://host"


def _pipeline(task: JSON) -> str:
    """Return the line of a pipeline that was found in the source, or an example of one behind `#`."""
    if not task:
        return _PIPELINE
    return _line(f"pipeline: {task}", "found in the source; `build` compares it with the source's own", "")


def _task(task: JSON) -> str:
    """Return the line of the task of a source that has one."""
    if not task:
        return ""
    return (
        f"\n{f'task: {task}':<32} # its cache, tokenizer and chat template too; without this line a graph of one pass"
    )


def _blocks(found: JSON) -> str:
    """Return the line that asks for consent to turn blocks of fewer bits into float32."""
    return f"\n{'dequantize: false':<32} # true: {found}" if found else ""


def inspect_source(
    source: str, base: Path, tracking: str | None = None, inside: Inside | None = None
) -> dict[str, JSON]:
    """Return what the files of a source say, for `draft`; nothing for one that is elsewhere and cannot be looked at.

    `inside` opens files of a kind, given with the payload, where that shows more (`packager.lock.inspection`); what it
    finds is `inside` of the answer.

    `executes` says that opening the payload runs code, and needs consent: the draft requests it, it never grants it.
    `code` are the files that it may import then, and their digest (None: their bytes are not here).
    `differs` says why this host's versions are not those to export with, `unbuilt` which version of a library that
    made the source has no build for the Python it would be locked for. `tracking` is the registry's address. Raises
    SourceError for a path that is not there, and for what no exporter opens: what is drafted here can be locked.
    """
    path = sources.local_path(source, base)
    if path is None:
        return _look_elsewhere(source, base, tracking)
    if not path.exists():
        raise SourceError(
            f"`{sources.redact_address(source)}` does not exist",
            hint="a registered model is written `models:/name@alias`",
        )
    if source.lower().endswith(sources.BUNDLE):
        return {}
    files = files_of(path)
    kind, payload = exporters.detect_kind(files, lambda path: _head(files[path]))
    return _found(files, kind, payload) | (
        {"inside": inside(files, kind, payload)} if inside and can_inspect(kind) else {}
    )


def _look_elsewhere(source: str, base: Path, tracking: str | None) -> dict[str, JSON]:
    """Look at the small files of a registered model, where its registry shows them without the large ones."""
    list_files = getattr(sources.load_for(source), "list_files", None)
    if list_files is None:
        return {}
    with tempfile.TemporaryDirectory() as scratch:
        try:
            files = list_files(source, sources.Settings(base, source, tracking, timeout=_TIMEOUT), Path(scratch))
        except PackagerError:
            return {}  # a draft can be written without the registry; `lock` says what is wrong with it
        return _found(files, *exporters.detect_kind(files, lambda path: _head(files[path])))


def _head(file: Path | None) -> bytes:
    """Return the first bytes of a file; nothing of one of which only the name is known."""
    if file is None:
        return b""
    with file.open("rb") as opened:
        return opened.read(_LONGEST)


def _found(files: Mapping[str, Path | None], kind: str, payload: str) -> dict[str, JSON]:
    """Return what files say, by path; of those that are None only the names are known."""
    origin = origins.read(files, lambda path: _head(files[path]), payload)
    module = plugins.load("exporters", kind)
    found: dict[str, JSON] = {}
    if pipeline := propose.detect_task(kind, payload, files, lambda path: _head(files[path])):
        found["pipeline"] = pipeline
    if module.EXECUTES:
        found["executes"] = f"`{payload}` is {getattr(module, 'IS', 'a pickle')}: true runs the code inside, sandboxed"
        if code := {path: file for path, file in files.items() if path.startswith(CODE)}:
            found["code"] = {"files": sorted(code), "digest": _digest(code)}
    if getattr(module, "DEQUANTIZES", False):
        found["blocks"] = "weights in blocks of fewer bits become float32, several times as large"
    if task := getattr(module, "task", _no_task)(payload, files, lambda path: _head(files[path])):
        found["task"] = task
    if base := getattr(module, "base_of", _no_base)(payload, lambda path: _head(files[path])):
        found["base"] = name_from(base)
    differs = _differs([name for name in module.TOOLCHAIN if name not in origins.OURS], origin)
    if differs and (unbuilt := _unbuilt(origin, getattr(module, "READS_OLDER", ()))):
        found["unbuilt"] = unbuilt
    elif differs:
        found["differs"] = differs
    return found


def _no_task(payload: str, paths: Collection[str], read: Callable[[str], bytes]) -> str | None:
    return None


def _no_base(payload: str, read: Callable[[str], bytes]) -> str | None:
    return None


def _digest(code: Mapping[str, Path | None]) -> str | None:
    """Return the digest that consent to these files names, as `scan` computes it; None if they are elsewhere."""
    blobs = {}
    for path, file in code.items():
        if file is None:
            return None
        with file.open("rb") as opened:
            blobs[path] = digest_of(opened, limit=sys.maxsize)
    return Tree.of(blobs).digest


def _code(code: JSON) -> str:
    """Propose consent to code that opening the source may import: the line has no effect until its mark is removed."""
    if not code:
        return _CODE
    more = " and more" if code["files"][_NAMED:] else ""
    listed = escape.line(", ".join(f"`{path}`" for path in code["files"][:_NAMED]) + more)
    warning = f"{listed} is code of its author that opening imports: read it"
    if code["digest"] is None:
        return f"# {warning}; `allow-code`, with the digest that the build says, consents to it"
    return f"# allow-code: {code['digest']}  # {warning}, and remove the first # to consent"


def _unbuilt(origin: origins.Origin, reads_older: Collection[str]) -> str:
    """Say which library cannot be locked at the version that made the source; nothing if a later one will do."""
    python = origin.python or host_version("python")
    exact = {name: spec for name, spec in origin.packages.items() if name not in reads_older}
    named = library_ages.unbuilt_library(exact, python)
    return f"{named} has no build for Python {python}" if named else ""


def _toolchain(known: Mapping[str, JSON]) -> str:
    if unbuilt := known.get("unbuilt"):
        return f"{'toolchain: host':<32} # {unbuilt}: this host's version may read it, or log it again"
    return _line("toolchain: locked", known.get("differs"), _TOOLCHAIN)


def _differs(tools: Iterable[str], origin: origins.Origin) -> str:
    """Say which library this host lacks, or has in another version than the source was made with; else nothing."""
    here: dict[str, str] = {}
    for name in tools:
        try:
            here[name] = host_version(name)
        except MissingToolError:
            return f"`{name}` is not installed here"
    differences = (
        f"made with {name} {made}, this host has {now}" for name, made, now in origins.version_differences(origin, here)
    )
    return next(differences, "")


def _line(setting: str, reason: JSON, otherwise: str) -> str:
    """Write a setting that the source calls for, with the reason; else the example behind `#`."""
    return f"{setting:<32} # {reason}" if reason else otherwise


def build_schema() -> bytes:
    """Return the JSON Schema of recipes, for editors."""
    return resources.files("packager.recipe").joinpath("recipe.schema.json").read_bytes()


def name_from(source: str) -> str:
    """Return a valid bundle name made of what people call the source: the model's, directory's or file's name.

    A file that is called `model` like all others has the name of its directory.
    """
    last = _ALIAS_OR_VERSION.sub("", source.partition(":/")[2]) if source.startswith("models:/") else source
    last = re.sub(r"[:@][^/]*$", "", last.partition(":")[2]) if source.startswith(("oci:", "bentoml:")) else last
    folder, _, file = last.rstrip("/").rpartition("/")
    stem = re.sub(_ENDING, "", file, flags=re.IGNORECASE)
    stem = folder.rpartition("/")[2] if stem.lower() in _COMMON and folder.strip("./") else stem
    words = re.findall(r"[a-z0-9]+", stem.lower())
    return "-".join(words)[:63].rstrip("-") or "model"


def relative_source(source: str, directory: Path) -> str:
    """Return a source given relative to the working directory as a recipe in `directory` must write it."""
    path = sources.local_path(source, Path())
    if path is None or path.is_absolute():
        return source
    return Path(os.path.relpath(path.resolve(), directory.resolve())).as_posix()


def _shapes(inputs: JSON, dynamic: JSON) -> str:
    """Write inputs one per line, or an example behind `#`."""
    lines = ["inputs:", *(f"  {_scalar(name)}: {_flow(spec)}" for name, spec in (inputs or _EXAMPLE).items())]
    lines.append(f"dynamic: {_flow(dynamic or {'batch': [1, 64]})}")
    if inputs:
        return "\n".join(lines if dynamic else lines[:-1])
    return "\n".join(f"# {line}" for line in lines)


def _ran(known: Mapping[str, JSON]) -> bool:
    return "promise" in (known.get("inside") or {})


def _taken(inside: JSON) -> str:
    """Say where the inputs below come from."""
    if not inside:
        return "read from the source's signature unless written here."
    if "promise" in inside:
        return (
            f"found by running it {inside['runs']} times. What `measure` spans is no limit: other lengths are served."
        )
    return f"no sizes were found that run ({inside['failed']:.200}); write them below."


def _promised(inside: JSON) -> str:
    """Write inputs and dimensions as they ran, each with what is known of it."""
    promise, found = inside["promise"], {port["name"]: port for port in inside["inputs"]}
    lines = ["inputs:"]
    for name, spec in promise["inputs"].items():
        lines.append(_noted(f"  {_scalar(name)}: {_flow(spec)}", describe_input(found[name])))
    if promise["dynamic"]:
        lines.append("dynamic:")
    for name, bounds in promise["dynamic"].items():
        lines.append(
            _noted(f"  {_scalar(name)}: {_flow(_ordered(bounds))}", [describe_span(inside["dimensions"][name])])
        )
    made = ", ".join(
        f"{port['name']} {port['dtype']}[{', '.join(map(str, port['shape']))}]" for port in inside["outputs"]
    )
    return "\n".join([*lines, f"# It returns {made}."])


def _ordered(axis: JSON) -> JSON:
    """Return what is said of an axis in the order in which people read it."""
    keys = ("min", "max", "step", "remainders", "also", "values", "measure")
    return {key: axis[key] for key in keys if key in axis} if isinstance(axis, dict) else axis


def _noted(line: str, comments: Iterable[str]) -> str:
    comment = escape.line("; ".join(comments))
    return f"{line:<40} # {comment}" if comment else line


def _oldest(inside: JSON) -> str:
    """Return the oldest version of ONNX Runtime to promise; operators for trees and tables are not converted down."""
    needed = ((inside or {}).get("opset") or {}).get(_ML, 0)
    reading = (
        row.version
        for row in runtime_tables.load_shipped("onnxruntime").rows.values()
        if row.opset.get(_ML, 0) >= needed
    )
    first = min(reading, key=runtime_tables.version_key, default=_OLDEST)
    return max(_OLDEST, first.removesuffix(".0"), key=runtime_tables.version_key)


def _domains(inside: JSON) -> str:
    example = "# custom-domains: [com.microsoft]   # operators beyond ONNX's own that an .onnx source may use"
    used = (inside or {}).get("domains")
    return _line(f"custom-domains: {_flow(used)}", "operators that ONNX Runtime brings itself", "") if used else example


def _flow(value: JSON) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_scalar(key)}: {_flow(member)}" for key, member in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value) if isinstance(value, str) else json.dumps(value)


def _scalar(text: str) -> str:
    """Write text so that YAML reads text: plain where that is safe, else quoted as JSON, which is YAML too."""
    plain = _PLAIN.fullmatch(text) and Scalar(text, True, Where("", 1)).kind == "text"
    return text if plain else escape.json_text(text)

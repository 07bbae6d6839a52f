# SPDX-License-Identifier: Apache-2.0
"""Read what a source was made with: a Python, and versions of packages. From names and bytes; nothing is run.

MLflow writes `requirements.txt` and `python_env.yaml` beside a model, and the library's version into `MLmodel`; bare
files name the version of their library somewhere inside. What is read here was written by the author of the model, so
it only chooses versions: names with version ranges count, also in files beside the model that are included. Indexes
that it names are not contacted, and what is no release of a package is set aside for callers that need it.
"""

from __future__ import annotations

import importlib.metadata
import io
import lzma
import posixpath
import re
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from packager import DISTRIBUTION
from packager.errors import SourceError
from packager.exporters._files import yaml
from packager.formats.index_addresses import redact_addresses
from packager.formats.requirements_files import (
    IGNORED_OPTIONS,
    INDEX_OPTIONS,
    logical_lines,
    of_address,
    parse_option,
    text_of,
)
from packager.lock import library_ages

Read = Callable[[str], bytes]

_FLAVOR_VERSIONS = {  # flavor of MLmodel: (its key for the version, the distribution)
    "sklearn": ("sklearn_version", "scikit-learn"),
    "xgboost": ("xgb_version", "xgboost"),
    "lightgbm": ("lgb_version", "lightgbm"),
    "catboost": ("catboost_version", "catboost"),
    "pytorch": ("pytorch_version", "torch"),
    "transformers": ("transformers_version", "transformers"),
    "sentence_transformers": ("sentence_transformers_version", "sentence-transformers"),
    "spark": ("pyspark_version", "pyspark"),
    "keras": ("keras_version", "keras"),
    "tensorflow": ("keras_version", "keras"),
}
_VERSION = rb"(\d+\.\d+(?:\.\d+)?(?:\.?(?:rc|post|dev)\d+)?)"
_STORED = (
    rb"(?:q.|r.{4}|\x94)?(?:X.{4}|[\x8cU].)|\np\d{1,9}\n[VS]'?"  # between two texts of a pickle: memo, opcode, length
)
_SKLEARN = (
    rb"_sklearn_version(?:" + _STORED + rb'|".{0,300}?"content":\s*"\\")' + _VERSION
)  # the latter in skops's JSON
# MetaInfoDef.tensorflow_version: its tag, its length, its text
_TENSORFLOW = rb"\x2a(?:\x05(\d\.\d\.\d)|\x06(\d\.\d\d\.\d)|\x07(\d\.\d\d\.\d\d))"
_SIGNS = (  # ending of a payload, what stands before the version there, the distribution
    ((".json",), rb'"version"\s*:\s*\[\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)', "xgboost"),
    ((".ubj",), rb"version\[#L\x00{7}\x03i(.)i(.)i(.)", "xgboost"),  # three int8 of Universal Binary JSON
    ((".txt", "part-00000"), rb'"sparkVersion":"' + _VERSION, "pyspark"),
    (("saved_model.pb",), _TENSORFLOW, "tensorflow"),
)
_LONGEST = 64 << 20  # bytes of an archive's schema that are searched

OURS = frozenset(
    {
        "onnx",
        "onnxruntime",
        "onnxscript",
        "onnx-ir",
        "skl2onnx",
        "onnxmltools",
        "tf2onnx",
        "protobuf",
        "ml-dtypes",
    }
)
"""What only this program uses: the source's word on them is about other purposes."""

_SAME = {"tensorflow-cpu": "tensorflow", "tensorflow-intel": "tensorflow", "xgboost-cpu": "xgboost"}
_NEVER = ("mlflow", "mlflow-skinny", "mlflow-tracing", "databricks-connect")  # a registry's client opens no model


@dataclass(frozen=True, slots=True)
class Origin:
    """`python` is major.minor, None if unsaid; `packages` maps distributions to PEP 440 ranges.

    `listed` says that they come from requirements beside the model, which a person can correct; `aside` are lines of
    them that choose no version, without what opens an address.
    """

    python: str | None
    packages: Mapping[str, str]
    listed: bool = field(default=False, compare=False)
    aside: tuple[str, ...] = field(default=(), compare=False)


def read(paths: Collection[str], fetch: Read, payload: str) -> Origin:
    """Return what the files of a source say; nothing in them is refused here."""
    known: dict[str, str] = {}
    if payload in paths:
        known |= _inside(payload, fetch)
    model = _table(fetch("MLmodel")) if "MLmodel" in paths else {}
    known |= _flavors(model)
    listed = "requirements.txt" in paths and "MLmodel" in paths
    aside: list[str] = []
    if listed:
        known |= _requirements(_lines("requirements.txt", paths, fetch, set(), aside), aside)
    return Origin(
        _python(model, paths, fetch), dict(sorted(known.items())), listed, tuple(map(redact_addresses, aside))
    )


def _table(data: bytes) -> dict[str, object]:
    """Return what a file beside a model says; one that is no mapping counts as empty."""
    try:
        return {**yaml.parse_mapping(data, "the source", _LONGEST)}
    except SourceError:
        return {}


def _flavors(model: Mapping[str, object]) -> dict[str, str]:
    flavors = model.get("flavors")
    found = {}
    for name, table in flavors.items() if isinstance(flavors, dict) else ():
        key, distribution = _FLAVOR_VERSIONS.get(str(name), ("", ""))
        version = str(yaml.keep_plain_values(table).get(key, ""))
        if re.fullmatch(r"\d+(\.\d+)+\S{0,20}", version) and _is_range(f"=={version}"):
            found[distribution] = f"=={version.partition('+')[0]}"
    return found


def _is_range(text: str) -> bool:
    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        return False
    return True


def _lines(
    file: str, paths: Collection[str], fetch: Read, seen: set[str], aside: list[str], *, bounds: bool = False
) -> Iterator[tuple[str, bool]]:
    """Yield the requirements of a file and of those that it includes; what cannot be read goes `aside`.

    With each comes whether it only bounds what others require (`--constraint`). Options about indexes choose no
    version: the indexes of the environment are used, and no others.
    """
    seen.add(file)
    try:
        rows = [line for _, line in logical_lines(text_of(fetch(file)))]
    except UnicodeDecodeError:
        aside.append(f"{file} (no text)")
        return
    for line in rows:
        name, value = parse_option(line)
        other = posixpath.normpath(posixpath.join(posixpath.dirname(file), value))
        if not name:
            yield re.split(r"\s--hash[= ]", line)[0].strip(), bounds
        elif name in ("--requirement", "--constraint") and other in paths and other not in seen:
            more = bounds or name == "--constraint"
            yield from _lines(other, paths, fetch, seen, aside, bounds=more)
        elif name not in (*INDEX_OPTIONS, *IGNORED_OPTIONS, "--find-links", "--constraint") and other not in seen:
            aside.append(line)


def _requirements(lines: Iterable[tuple[str, bool]], aside: list[str]) -> dict[str, str]:
    """Return the range of every required package; a wheel at an address stands for its version."""
    found: dict[str, str] = {}
    for line, bounds in sorted(lines, key=lambda row: row[1]):
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            aside.append(line)
            continue
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        name, spec = str(canonicalize_name(requirement.name)), str(requirement.specifier)
        if requirement.url:
            wheel = of_address(requirement)
            if wheel is None:
                aside.append(line)
                continue
            spec = f"=={wheel[1]}"
        spec = re.sub(r"\+[\w.]+", "", spec)  # `+cpu`: how, not what
        name = _SAME.get(name, name)
        if bounds and name not in found:
            continue
        found[name] = ",".join(sorted({part for part in (*found.get(name, "").split(","), *spec.split(",")) if part}))
    return {name: spec for name, spec in found.items() if name not in _NEVER}


def refusal_of(origin: Origin) -> SourceError:
    """Return the error for a source whose own code may need what its requirements do not name by version."""
    return SourceError(
        f"`requirements.txt` of the source holds `{origin.aside[0]:.80}`, which is no release of a package",
        hint="log the model with plain `pip_requirements`, or write `toolchain: host` and build where it is installed",
    )


def _python(model: Mapping[str, object], paths: Collection[str], fetch: Read) -> str | None:
    stated = ""
    if "python_env.yaml" in paths:
        stated = str(yaml.keep_plain_values(_table(fetch("python_env.yaml"))).get("python") or "")
    flavors = model.get("flavors")
    function = flavors.get("python_function") if isinstance(flavors, dict) else None
    stated = stated or str(yaml.keep_plain_values(function).get("python_version") or "")
    found = re.match(r"(\d+\.\d+)(\.\d+)?", stated)
    return found[1] if found else None


def _inside(payload: str, fetch: Read) -> dict[str, str]:
    """Return the version that the payload itself names, if it is of a kind that does."""
    if payload.endswith((".skops", ".pkl", ".joblib")):
        data = _member(fetch(payload), "schema.json") if payload.endswith(".skops") else fetch(payload)
        made = [match[1].decode() for match in re.finditer(_SKLEARN, data, re.DOTALL)]
        boosters = {name: "" for name in ("lightgbm", "xgboost") if f"{name}.sklearn".encode() in data}
        return {**boosters, **({"scikit-learn": f"=={made[-1]}"} if made else {})}
    if payload.endswith(".keras"):
        made = re.findall(rb'"keras_version":\s*"' + _VERSION, _member(fetch(payload), "metadata.json"))
        return {"keras": f"=={made[0].decode()}"} if made else {}
    for endings, sign, distribution in _SIGNS:
        if payload.endswith(endings):
            found = list(re.finditer(sign, fetch(payload), re.DOTALL))
            return {distribution: f"=={'.'.join(map(_number, filter(None, found[-1].groups())))}"} if found else {}
    return {}


def _number(part: bytes) -> str:
    """Return a part of a version, which some files hold as one byte."""
    return str(part[0]) if len(part) == 1 and not part.isdigit() else part.decode("ascii", "replace")


def _member(data: bytes, name: str) -> bytes:
    """Return what an archive says about itself in one of its members."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open(name) as member:
            return member.read(_LONGEST)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, KeyError, OSError, RuntimeError):
        return b""  # the worker will say what is wrong with it


def version_differences(origin: Origin, found: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield each library that the source was made with in another minor version than `found` has: name, its version
    there, its version here.
    """
    for name, stated in origin.packages.items():
        exact = stated.removeprefix("==")
        judged = name in found and name not in OURS and exact != stated
        if judged and exact.split(".")[:2] != found[name].split(".")[:2]:
            yield name, exact, found[name]


def requirements_for(tools: Collection[str], origin: Origin, *, more: bool) -> list[str]:
    """Return the PEP 508 lines of an environment that holds `tools`: the source's versions of its own libraries, and
    ours for the rest. With `more` everything else the source requires comes along: a pickle may need it.

    The order is that of `tools`: a resolver gives the first its newest version that fits, the next one what is left.
    """
    bounds = _bounds()
    lines = {name: bounds.get(name, "") for name in (*tools, "pyyaml", "packaging")}
    if any(name not in OURS for name in origin.packages):  # an old library may not accept a new numpy
        lines |= {name: "" for name in ("numpy", "scipy", "pandas") if name in lines}
    stated = {name: spec for name, spec in origin.packages.items() if name not in OURS and (more or name in lines)}
    lines |= stated
    for bound in library_ages.list_bounds(stated):
        if bound.package not in stated:  # whose word is about what was seen to work
            lines[bound.package] = ",".join(filter(None, (_floor(lines.get(bound.package, "")), bound.range)))
    whole = {"tensorflow"} if "tf-keras" in lines else set()  # which requires it by that name
    return [f"{name if name in whole else _wheel(name, spec)}{spec}" for name, spec in lines.items()]


def candidate_origins(origin: Origin, reads_older: Collection[str]) -> Iterator[Origin]:
    """Yield what to lock instead of `origin` where that has no solution or does not work, after `origin` itself.

    A library that promises to read its older files may be a later one; for any other, the packages around it may be
    older than its metadata requires.
    """
    yield origin
    packages = {name: spec for name, spec in origin.packages.items() if name not in OURS}
    later = {name: spec.replace("==", ">=", 1) for name, spec in packages.items() if name in reads_older}
    if later and later.items() - packages.items():
        yield replace(origin, packages={**origin.packages, **later})
    elif packages and "numpy" not in packages:
        yield replace(origin, packages={**origin.packages, "numpy": "<2"})


def _floor(spec: str) -> str:
    """Return the lower bounds of a range that this program requires; the age of a library gives the upper one."""
    return ",".join(sorted(str(item) for item in SpecifierSet(spec) if item.operator in (">=", ">", "!=")))


def _wheel(name: str, spec: str) -> str:
    """Return the distribution to install: the small ones of those that come with a gigabyte of CUDA."""
    exact = re.fullmatch(r"==(\d+)\.(\d+)\S*", spec)
    small = {"xgboost": (2, 1), "tensorflow": (1, 15)}.get(name)
    if small is None or (exact and (int(exact[1]), int(exact[2])) < small):
        return name
    return f"{name}-cpu"


def _bounds() -> dict[str, str]:
    """Return the ranges that this program itself requires, by name, whatever the extra."""
    found: dict[str, str] = {}
    for line in importlib.metadata.requires(DISTRIBUTION) or ():
        requirement = Requirement(line)
        if "dev" not in str(requirement.marker):
            name = canonicalize_name(requirement.name)
            found.setdefault(_SAME.get(name, name), str(requirement.specifier))
    return found

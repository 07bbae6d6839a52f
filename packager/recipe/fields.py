# SPDX-License-Identifier: Apache-2.0
"""Parse the single values of a recipe: a node to a checked string, number or tuple.

The patterns are those of `recipe.schema.json`; a test holds the two together. Every function takes the node that
stands there and raises UsageError with its line.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.specifiers import SpecifierSet

from packager import names, semver, strictyaml
from packager.errors import IntegrityError
from packager.formats.platforms import PLATFORM
from packager.recipe.lengths import FOLLOWS, MAX_LISTED, Axis, Lengths
from packager.strictyaml import Node, Scalar, Table
from packager.types import check_path

LINE = r"\S([^\n]*\S)?"
REGISTRY = r"[A-Za-z][A-Za-z0-9+.-]*:\S+|databricks(-uc)?"
CREDENTIAL = r"//[^/@]*:[^/@]*@"
CARD = r".+\.(md|txt)"
CALIBRATION = r".+\.(npz|npy|jsonl)"
LABELLED = r".+\.(parquet|csv|jsonl)"
METRIC = r"accuracy|f1|auc|recall@[1-9][0-9]{0,2}|rmse|mae|r2|miou|map(@50|@75)?|wer|cer"
SAMPLES = r".+\.(parquet|csv|npz|npy|jsonl)"
TIMING_CACHE = r".+\.cache"
LOCK_FILE = r".+\.(txt|toml|lock)"
DIGEST = r"sha256:[0-9a-f]{64}"
BUNDLE = rf"{names.NAME}:[0-9][0-9A-Za-z.+-]*|{DIGEST}"
LAYER = r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*"
MAX_LAYERS = 64
POLICY = r"[a-z0-9][a-z0-9-]*|.+\.ya?ml"
RUNTIME = r"[a-z0-9]+(-[a-z0-9]+)*"
DEVICE = r"[a-z0-9]+(_[a-z0-9]+)*"
DIMENSION = r"[A-Za-z_][A-Za-z0-9_]*"
AXIS = f"default|{FOLLOWS}"
DOMAIN = r"[A-Za-z0-9]+([._-][A-Za-z0-9]+)*"
"""An ONNX operator domain."""
TENSOR = r"\S(.*\S)?"
MEMORY = r"[1-9][0-9]{0,11}([KMGT]i)?B"
_RELEASE = r"[0-9]+(\.[0-9]+)*"
_REST = r"((a|b|rc)[0-9]+)?(\.post[0-9]+)?(\.dev[0-9]+)?"
_CLAUSE = (
    rf"(>=|<=|>|<) *{_RELEASE}{_REST}|(==|!=) *{_RELEASE}(\.\*|{_REST})|~= *[0-9]+(\.[0-9]+)+{_REST}|{_RELEASE}\.\*"
)
VERSIONS = rf" *({_CLAUSE}) *(, *({_CLAUSE}) *)*"
"""The part of PEP 440 that releases of runtimes need; a bare `1.7.*` means `==1.7.*`."""

TOOLCHAINS = ("host", "locked")
SANDBOXES = ("required", "none")
TASKS = ("text-generation", "text2text-generation", "automatic-speech-recognition")
PRECISIONS = ("fp32", "fp32_optimised", "fp16", "mixed", "bf16", "int8", "int8_dynamic", "int4", "q8_0")
LOSSY = ("int8", "int4", "q8_0")
"""How precisions begin that no default tolerance is for."""
DTYPES = (
    "bfloat16",
    "bool",
    "float16",
    "float32",
    "float64",
    "int16",
    "int32",
    "int64",
    "int8",
    "string",
    "uint16",
    "uint32",
    "uint64",
    "uint8",
)
MAX_NAME = 128
MAX_SIZE = 2**31 - 1
_MOST_VALUES = 4096  # of an input
MAX_NUMBER = 2**53 - 1  # what every reader of JSON agrees on
_LICENSES = (
    "AGPL-3.0-only",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC-BY-4.0",
    "CC-BY-NC-4.0",
    "CC-BY-SA-4.0",
    "CC0-1.0",
    "GPL-2.0-only",
    "GPL-3.0-only",
    "GPL-3.0-or-later",
    "ISC",
    "LGPL-3.0-only",
    "MIT",
    "MPL-2.0",
    "Unlicense",
)


def read_name(node: Node) -> str:
    expect = "a name of lower-case letters and digits, joined by single `.`, `_` or `-`"
    words = re.findall(r"[a-z0-9]+", node.text.lower()) if isinstance(node, Scalar) else []
    fitting = "-".join(words)[:63].rstrip("-")
    hint = f"write `{fitting}`" if words else None
    change = (node.text, fitting) if words and isinstance(node, Scalar) else None
    return strictyaml.read_text(
        node, "name", pattern=names.NAME, expect=expect, limit=names.MAX_NAME, hint=hint, change=change
    )


def read_version(node: Node) -> str:
    found = node.text if isinstance(node, Scalar) else ""
    if re.fullmatch(
        r"v?[0-9]+(\.[0-9]+)?|v[0-9]+\.[0-9]+\.[0-9]+", found
    ):  # the commonest slip, and a number to YAML; meant is surely this
        full = ".".join([*found.removeprefix("v").split("."), "0", "0"][:3])
        problem = f"`version`: expected a semantic version, got `{found}`"
        raise node.where.error(problem, hint=f"write `{full}`", change=(found, full))
    return strictyaml.read_text(
        node,
        "version",
        pattern=semver.SEMVER,
        expect="a semantic version such as `1.4.0` (https://semver.org)",
        limit=semver.MAX_LENGTH,
    )


def read_source(node: Node) -> str:
    return _without_secret(node, strictyaml.read_text(node, "source", pattern=LINE, expect="one line of text"))


def read_registry(node: Node) -> str:
    expect = "an address such as `sqlite:///mlflow.db` or `https://host`"
    return _without_secret(node, strictyaml.read_text(node, "registry", pattern=REGISTRY, expect=expect))


def _without_secret(node: Node, address: str) -> str:
    if re.search(CREDENTIAL, address):
        raise node.where.error(
            "a recipe may not hold a password",
            hint="remove it; `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD` in the environment are read",
        )
    return address


def read_licence(node: Node) -> str:
    """Read an SPDX expression in its canonical spelling."""
    written = strictyaml.read_text(node, "license", pattern=LINE, expect="an SPDX licence expression", limit=512)
    try:
        return canonicalize_license_expression(written)
    except InvalidLicenseExpression:
        close = difflib.get_close_matches(written, _LICENSES, n=1)
        problem = f"`license`: expected an SPDX licence expression, got `{written:.60}`"
        known = "see https://spdx.org/licenses; your own is `LicenseRef-NAME`"
        change = (written, close[0]) if close else None
        raise node.where.error(problem, hint=f"did you mean `{close[0]}`?" if close else known, change=change) from None


def read_description(node: Node) -> str:
    return strictyaml.read_text(node, "description", limit=4096)


def read_authors(node: Node) -> tuple[str, ...]:
    found = strictyaml.read_items(node, "authors", most=100)
    return tuple(strictyaml.read_text(item, "authors", pattern=LINE, expect="a name", limit=256) for item in found)


def read_card(node: Node) -> str:
    return _path(node, strictyaml.read_text(node, "card", pattern=CARD, expect="a `.md` or `.txt` file", limit=255))


def trust_member(node: Node, member: str) -> str:
    """Read a member of `trust`: a name or address, or the path of a file."""
    found = strictyaml.read_text(node, f"trust.{member}", pattern=LINE, expect="one line of text", limit=1024)
    return found if member in ("identity", "issuer") else _path(node, found)


def read_samples(node: Node) -> str:
    expect = "a `.parquet`, `.csv`, `.npz`, `.npy` or `.jsonl` file"
    return _path(node, strictyaml.read_text(node, "samples", pattern=SAMPLES, expect=expect, limit=255))


def read_calibration(node: Node) -> str:
    expect = "a `.npz`, `.npy` or `.jsonl` file"
    return _path(node, strictyaml.read_text(node, "calibration", pattern=CALIBRATION, expect=expect, limit=255))


def data_file(node: Node, what: str, pattern: str, expect: str) -> str:
    """Return the path of a file at or below the recipe's directory."""
    return _path(node, strictyaml.read_text(node, what, pattern=pattern, expect=expect, limit=255))


def timing_cache(node: Node, what: str) -> str:
    return _path(node, strictyaml.read_text(node, what, pattern=TIMING_CACHE, expect="a `.cache` file", limit=255))


def _path(node: Node, path: str) -> str:
    try:
        return check_path(path)
    except IntegrityError as error:
        raise node.where.error(error.message, hint="write a path below the recipe's directory") from None


def entry_name(key: Scalar, what: str, pattern: str = TENSOR) -> str:
    if len(key.text) > MAX_NAME or not re.fullmatch(pattern, key.text):
        clean = re.sub(r"\W+", "_", key.text, flags=re.ASCII).strip("_")[:MAX_NAME]
        fitting = clean if re.match(r"[A-Za-z_]", clean) else f"axis_{clean}".rstrip("_")
        hint, change = ("letters, digits and `_`", (key.text, fitting)) if pattern == DIMENSION else (None, None)
        raise key.where.error(f"`{what}`: `{key.text:.60}` cannot be a name here", hint=hint, change=change)
    return key.text


def read_dimension(node: Node, what: str) -> int | str:
    if isinstance(node, Scalar) and node.kind == "text":
        expect = "a size or the name of a dimension"
        return strictyaml.read_text(
            node, what, pattern=DIMENSION, expect=expect, limit=MAX_NAME, hint="letters, digits and `_`"
        )
    return strictyaml.read_integer(node, what, 1, MAX_SIZE)


def _check_order(node: Node, what: str, low: float, high: float) -> None:
    if low > high:
        raise node.where.error(f"`{what}`: expected the lower bound first, got [{low:g}, {high:g}]")


def read_axis(name: str, node: Node) -> Axis:
    """Read what is said of a dimension: `[1, 64]`, `default`, `= 4 * width`, or a table."""
    what = f"dynamic.{name}"
    if isinstance(node, Scalar) and node.kind == "text":
        expect = "`[1, 64]`, `default`, `= batch`, `= 4 * width` or `{step: 32}`"
        return Axis.from_json(strictyaml.read_text(node, what, pattern=AXIS, expect=expect, limit=MAX_NAME))
    if not isinstance(node, Table):
        return Axis.span(*_span(node, what))
    span = ("min", "max", "step", "remainders", "also")
    members = strictyaml.read_fields(node, what, (*span, "values", "measure"))
    measure = _span(members["measure"], f"{what}.measure") if "measure" in members else None
    if "values" in members:
        for other in [key for key in span if key in members]:
            raise node.where.error(
                f"`{what}`: `values` lists every length, so `{other}` has no meaning", hint="remove it"
            )
        listed = strictyaml.read_items(members["values"], f"{what}.values", least=1, most=MAX_LISTED)
        return Axis(
            Lengths.of(strictyaml.read_integer(item, f"{what}.values", 1, MAX_SIZE) for item in listed), measure
        )
    numbers = {
        key: strictyaml.read_integer(members[key], f"{what}.{key}", 1, MAX_SIZE) for key in span[:3] if key in members
    }
    limit = Lengths(numbers.get("min", 1), numbers.get("max"), numbers.get("step", 1))
    if limit.high is not None and limit.near(limit.high) > limit.high:
        raise node.where.error(f"`{what}`: no length is taken", hint="write `min` below `max`, and a multiple between")
    if "remainders" in members and limit.step == 1:
        raise node.where.error(f"`{what}`: `remainders` without `step`", hint="add `step`, or remove it")
    if "remainders" in members:
        limit = replace(limit, remainders=_beside(members["remainders"], f"{what}.remainders", limit, limit.step - 1))
    if "also" in members:
        limit = replace(limit, also=_beside(members["also"], f"{what}.also", limit, MAX_SIZE))
    return Axis(limit, measure)


def _beside(node: Node, what: str, limit: Lengths, most: int) -> tuple[int, ...]:
    """Read remainders of the step, or single lengths, that are taken besides those of `limit`."""
    items = strictyaml.read_items(node, what, least=1, most=MAX_LISTED)
    found = [(item, strictyaml.read_integer(item, what, 1, most)) for item in items]
    for item, length in found if most == MAX_SIZE else ():
        if length in limit:
            raise item.where.error(f"`{what}`: {length} is taken anyway ({limit})", hint="remove it")
    return tuple(sorted({length for _, length in found}))


def _span(node: Node, what: str) -> tuple[int, int]:
    low, high = (
        strictyaml.read_integer(item, what, 1, MAX_SIZE) for item in strictyaml.read_items(node, what, least=2, most=2)
    )
    _check_order(node, what, low, high)
    return low, high


def read_values(node: Node, what: str, dtype: str | None) -> tuple[float | int | str, ...]:
    """Read the values that an input may take: all numbers or all texts, different, sorted."""
    if dtype == "bool":
        raise node.where.error(f"`{what}`: a bool takes true and false", hint="remove it")
    found: list[float | int | str] = []
    for item in strictyaml.read_items(node, what, least=1, most=_MOST_VALUES):
        text = isinstance(item, Scalar) and item.kind == "text"
        if text != (dtype == "string" if dtype else isinstance(found[0] if found else item.value(), str)):
            raise item.where.error(f"`{what}`: expected {'texts' if dtype == 'string' else 'numbers'} of one kind")
        number = None if text else strictyaml.read_number(item, what, -MAX_NUMBER, MAX_NUMBER)
        found.append(item.value() if number is None else int(number) if number == int(number) else number)
    return tuple(sorted(set(found), key=lambda value: (str(type(value)), value)))


def read_versions(node: Node, what: str) -> str:
    found = node.text.strip() if isinstance(node, Scalar) else ""
    if re.fullmatch(r"[0-9]+(\.[0-9]+)*", found):
        hint = f'write "=={found}.*" for that release, ">={found}" for it and all newer ones'
        problem = f"`{what}`: expected a range of versions, got the one version `{found:.60}`"
        quoted = isinstance(node, Scalar) and not node.plain
        raise node.where.error(problem, hint=hint, change=(found, f"=={found}.*" if quoted else f'"=={found}.*"'))
    found = strictyaml.read_text(
        node, what, pattern=VERSIONS, expect='a range of versions such as ">=1.17,<2"', limit=128
    )
    clauses = (clause.strip() for clause in found.split(","))
    return str(SpecifierSet(",".join(clause if clause[0] in "<>=!~" else f"=={clause}" for clause in clauses)))


def read_words(node: Node | None, what: str, default: tuple[str, ...], pattern: str) -> tuple[str, ...]:
    """Read one word or a list of different words, sorted."""
    if node is None:
        return default
    listed = (node,) if isinstance(node, Scalar) else strictyaml.read_items(node, what, least=1, most=64)
    expect = f"one of {pattern.replace('|', ', ')}" if "|" in pattern else "a device such as `cpu` or `sm_86`"
    hint = None if "|" in pattern else "lower-case letters and digits, joined by `_`"
    words = [
        strictyaml.read_text(item, what, pattern=pattern, expect=expect, limit=MAX_NAME, hint=hint) for item in listed
    ]
    for item, word in zip(listed, words, strict=True):
        if words.count(word) > 1:
            raise item.where.error(f"`{what}`: `{word}` is there twice", hint="remove one of the two")
    return tuple(sorted(words))


def read_memory(node: Node, what: str = "limits.memory") -> int:
    expect = "an amount with a binary unit such as `16GiB`"
    hint = "units are `KiB`, `MiB`, `GiB` and `TiB`"
    written = strictyaml.read_text(node, what, pattern=MEMORY, expect=expect, hint=hint)
    digits = written.rstrip("BiKMGT")
    return int(digits) << 10 * ("B", "KiB", "MiB", "GiB", "TiB").index(written.removeprefix(digits))


def read_previous(node: Node) -> str:
    expect = "`none`, a version, `name:version`, or the path of a bundle"
    return strictyaml.read_text(node, "previous", pattern=LINE, expect=expect, limit=1024)


def read_policy(node: Node) -> str:
    expect = "the name of a profile, or a `.yaml` file"
    return _path(node, strictyaml.read_text(node, "policy", pattern=POLICY, expect=expect, limit=255))


def value_range(node: Node, what: str, dtype: str | None) -> tuple[float, float]:
    if dtype in ("bool", "string"):
        raise node.where.error(f"`{what}`: a {dtype} has no range", hint="remove it")
    low, high = (
        strictyaml.read_number(item, what, -MAX_NUMBER, MAX_NUMBER)
        for item in strictyaml.read_items(node, what, least=2, most=2)
    )
    _check_order(node, what, low, high)
    return low, high


def custom_domains(node: Node) -> tuple[str, ...]:
    found = strictyaml.read_items(node, "custom-domains", most=16)
    expect = "an operator domain such as `com.microsoft`"
    words = (
        strictyaml.read_text(item, "custom-domains", pattern=DOMAIN, expect=expect, limit=MAX_NAME) for item in found
    )
    return tuple(sorted(set(words)))


def allow_pickle(node: Node) -> bool:
    return strictyaml.read_boolean(node, "allow-pickle")


def read_dequantize(node: Node) -> bool:
    return strictyaml.read_boolean(node, "dequantize")


def allow_code(node: Node) -> str:
    return strictyaml.read_text(
        node, "allow-code", pattern=DIGEST, expect="a digest such as `sha256:…`", limit=MAX_NAME
    )


def read_toolchain(node: Node) -> str:
    return strictyaml.read_choice(node, "toolchain", TOOLCHAINS)


def read_signature(node: Node) -> str:
    return strictyaml.read_text(
        node, "export.signature", pattern=LINE, expect="the name of a signature", limit=MAX_NAME
    )


def read_task(node: Node) -> str:
    return strictyaml.read_choice(node, "task", TASKS)


def read_adapters(node: Node) -> tuple[str, ...]:
    """Read the kinds of layers that adapters may change, sorted."""
    listed = strictyaml.read_items(node, "adapters", least=1, most=MAX_LAYERS)
    expect = "the end of a layer's path, such as `q_proj`"
    found = [strictyaml.read_text(item, "adapters", pattern=LAYER, expect=expect, limit=128) for item in listed]
    if len(set(found)) < len(found):
        raise node.where.error("`adapters` names a layer twice")
    return tuple(sorted(found))


def read_base(node: Node) -> str:
    expect = "`name:version` or `sha256:…` of a bundle in the local store"
    return strictyaml.read_text(node, "base", pattern=BUNDLE, expect=expect, limit=256)


def read_sandbox(node: Node) -> str:
    return strictyaml.read_choice(node, "sandbox", SANDBOXES)


def read_minutes(node: Node) -> int:
    return strictyaml.read_integer(node, "limits.minutes", 1, 7 * 24 * 60)


def platform_names(what: str) -> Callable[[Node], tuple[str, ...]]:
    """Return the reader of a list of platforms such as `linux_x86_64-cp311`, sorted."""

    def read(node: Node) -> tuple[str, ...]:
        listed = strictyaml.read_items(node, what, least=1, most=64)
        expect, hint = (
            "a platform such as `linux_x86_64-cp311`",
            "`manylinux_2_17_x86_64-cp311` means an older glibc",
        )
        return tuple(
            sorted({strictyaml.read_text(item, what, pattern=PLATFORM, expect=expect, hint=hint) for item in listed})
        )

    return read


def read_dependencies(node: Node) -> str:
    expect = "a lock file: `requirements.txt`, `pylock.toml`, or that of uv, Poetry, PDM or Pipenv"
    hint = "where there is none, as with conda, run `pip list --format=freeze > requirements.txt` in that environment"
    return _path(
        node, strictyaml.read_text(node, "dependencies", pattern=LOCK_FILE, expect=expect, hint=hint, limit=255)
    )


def _line(what: str, pattern: str = LINE, expect: str = "one line of text") -> Callable[[Node], str]:
    return lambda node: strictyaml.read_text(node, what, pattern=pattern, expect=expect, limit=2048)


DATASET: Mapping[str, Callable[[Node], str]] = {
    "name": _line("datasets.name"),
    "uri": lambda node: _without_secret(node, _line("datasets.uri")(node)),
    "digest": _line("datasets.digest", DIGEST, "a digest such as `sha256:…`, 64 lower-case hexadecimal digits"),
    "license": read_licence,
    "classification": _line("datasets.classification"),
}

# SPDX-License-Identifier: Apache-2.0
"""Write and parse the knob schema of a bundle, and resolve the values of a deployment.

Knobs are what a site may change about a running bundle, never what the bundle is.

`knobs.schema.json` in a bundle is a JSON Schema that declares every knob with type, unit, bounds, default, what a new
value needs to take effect, and a sentence for people. Nothing else can be set. A value is a number, a switch, a word
of a list, a host, a label or the *reference* of a secret: no knob takes code, an argument list or a file to execute.

Sources in order, the later wins: the bundle's defaults, values files, the environment, the command line. The result
names the origin of every value and has a digest, by which a deployment can be recognised.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, get_args

from packager import canonical, strictyaml
from packager.canonical import JSON
from packager.errors import MalformedError, PackagerError, UsageError, did_you_mean
from packager.server.declaration import LABEL, MAX_ITEMS, MAX_LABELS, PATTERNS, Kind, Knob, Needs

FILE = "knobs.schema.json"
PREFIX = "PACKAGER_KNOB__"
DEFAULT = "default"
MAX_SCHEMA = 1 << 20
_DIALECT = "https://json-schema.org/draft/2020-12/schema"

NAME = r"[a-z][a-z0-9_]{0,31}\.[a-z][a-z0-9_]{0,31}"

Schema: TypeAlias = Mapping[str, Knob]


# the document in the bundle


def to_schema(knob: Knob) -> JSON:
    """Return the JSON Schema of a knob; members that start with `x-` are ours."""
    extra = {"x-unit": knob.unit} if knob.unit else {}
    default = {} if knob.default is None else {"default": knob.default}
    return {
        "description": knob.about,
        "x-kind": knob.kind,
        "x-needs": knob.needs,
        **extra,
        **default,
        **_value_schema(knob),
    }


def _value_schema(knob: Knob) -> dict[str, JSON]:
    bounds = {"minimum": knob.low, "maximum": knob.high}
    text = {"type": "string", "pattern": f"^({PATTERNS.get(knob.kind, '')})$", "not": {"pattern": r"\n"}}
    match knob.kind:
        case "integer" | "number":
            return {"type": knob.kind, **bounds}
        case "boolean":
            return {"type": "boolean"}
        case "choice":
            return {"enum": list(knob.choices)}
        case "integers":
            return {
                "type": "array",
                "items": {"type": "integer", **bounds},
                "maxItems": MAX_ITEMS,
                "uniqueItems": True,
            }
        case "origins":
            return {"type": "array", "items": text, "maxItems": MAX_ITEMS, "uniqueItems": True}
        case "labels":
            keys = {"pattern": f"^({LABEL})$", "not": {"pattern": r"\n"}}
            return {
                "type": "object",
                "propertyNames": keys,
                "additionalProperties": text,
                "maxProperties": MAX_LABELS,
            }
        case "host" | "secret" | "path":
            return text


def dump(knobs: Iterable[Knob]) -> bytes:
    """Return the JSON Schema of overlays: one object per group, one member per knob, nothing else."""
    groups: dict[str, dict[str, JSON]] = {}
    for knob in knobs:
        group, _, name = knob.name.partition(".")
        groups.setdefault(group, {})[name] = to_schema(knob)
    closed = {"type": "object", "additionalProperties": False}
    properties = {group: {**closed, "properties": members} for group, members in groups.items()}
    return canonical.dump({"$schema": _DIALECT, "title": "Knobs", **closed, "properties": properties})


def parse(data: bytes) -> Schema:
    """Parse an untrusted schema: it is accepted if `dump` of the result gives the same bytes.

    Raises MalformedError.
    """
    try:
        groups = canonical.load(data, limit=MAX_SCHEMA)["properties"]
        found = [
            _knob(f"{group}.{name}", member)
            for group, value in groups.items()
            for name, member in value["properties"].items()
        ]
        if dump(found) != data:
            raise ValueError("it is not written as this program writes them")
    except (ValueError, TypeError, KeyError, AttributeError, PackagerError) as error:
        raise MalformedError(f"`{FILE}` is not a schema of knobs: {error}", subject=FILE) from None
    return {knob.name: knob for knob in found}


def _knob(name: str, value: JSON) -> Knob:
    kind = value["x-kind"]
    if not re.fullmatch(NAME, name) or kind not in get_args(Kind) or value["x-needs"] not in get_args(Needs):
        raise ValueError(f"`{name:.60}` cannot be declared so")
    bounds = value.get("items", value)
    low, high = bounds.get("minimum", 0), bounds.get("maximum", 0)
    knob = Knob(
        name,
        kind,
        value["description"],
        value.get("default"),
        low,
        high,
        tuple(value.get("enum", ())),
        value.get("x-unit"),
        value["x-needs"],
    )
    if knob.default is not None and not knob.allows(knob.default):
        raise ValueError(f"the default of `{name}` is outside its bounds")
    return knob


# values


@dataclass(frozen=True, slots=True)
class Override:
    """One value given for a knob, and its origin. `typed`: it has its JSON type already."""

    name: str
    value: JSON
    origin: str
    typed: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and where it comes from."""

    value: JSON
    origin: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """Every knob of one bundle with its value; knobs that are not set are left out."""

    bundle: str
    settings: Mapping[str, Setting]

    @property
    def values(self) -> dict[str, JSON]:
        """The value of every knob that is set, by name."""
        return {name: setting.value for name, setting in self.settings.items()}

    @property
    def changed(self) -> dict[str, JSON]:
        """The values that are not the bundle's own."""
        return {name: setting.value for name, setting in self.settings.items() if setting.origin != DEFAULT}

    @property
    def digest(self) -> str:
        """Identity of the deployment: sha256 of the canonical JSON of the bundle's digest and all values."""
        return canonical.sha256(canonical.dump({"bundle": self.bundle, "values": self.values}))

    def to_json(self) -> JSON:
        rows = {name: {"value": setting.value, "origin": setting.origin} for name, setting in self.settings.items()}
        return {"bundle": self.bundle, "digest": self.digest, "knobs": rows}


def resolve(schema: Schema, bundle: str, overrides: Iterable[Override] = ()) -> Resolved:
    """Apply `overrides` in their order over the defaults. Raises UsageError for the first that is not allowed."""
    settings = {name: Setting(knob.default, DEFAULT) for name, knob in schema.items() if knob.default is not None}
    for override in overrides:
        knob, value = _find_knob(schema, override)
        if knob.kind == "labels" and override.name != knob.name:
            before = settings[knob.name].value if knob.name in settings else {}
            value = {**before, **value}
        if not knob.allows(value):
            got = f", got `{value!s:.60}`" if knob.kind != "secret" else ""  # a secret itself may stand there
            raise UsageError(f"{override.origin}: `{knob.name}`: expected {knob.expected()}{got}")
        settings[knob.name] = Setting(value, override.origin)
    return Resolved(bundle, {name: settings[name] for name in sorted(settings)})


def _find_knob(schema: Schema, override: Override) -> tuple[Knob, JSON]:
    knob = schema.get(override.name)
    if knob is not None:
        return knob, override.value if override.typed else knob.read(override.value)
    parent, _, label = override.name.rpartition(".")
    knob = schema.get(parent)
    if knob is None or knob.kind != "labels":
        hint = did_you_mean(override.name, schema) if schema else "this bundle declares no knobs"
        raise UsageError(f"{override.origin}: the bundle has no knob `{override.name:.80}`", hint=hint)
    return knob, {label: override.value}


def from_values(data: bytes, file: str, schema: Schema) -> Iterator[Override]:
    """Yield the overrides of a values file: YAML, one mapping per group. Raises UsageError with the line."""
    for group, members in strictyaml.read_table(strictyaml.parse(data, file), "values").entries:
        for name, node in strictyaml.read_table(members, group.text).entries:
            full = f"{group.text}.{name.text}"
            labels = full in schema and schema[full].kind == "labels"
            if isinstance(node, strictyaml.Table) and not labels:
                known = did_you_mean(full, schema) if full not in schema else None
                raise name.where.error(f"`{full:.80}`: expected {_expected(schema, full)}, got a mapping", hint=known)
            yield Override(full, node.value(), str(name.where), typed=True)


def _expected(schema: Schema, name: str) -> str:
    return schema[name].expected() if name in schema else "the name of a knob"


def from_environment(environment: Mapping[str, str]) -> Iterator[Override]:
    """Yield the overrides of environment variables: `PACKAGER_KNOB__SERVER__PORT` is `server.port`."""
    for variable in sorted(environment):
        if variable.startswith(PREFIX):
            name = variable.removeprefix(PREFIX).lower().replace("__", ".")
            yield Override(name, environment[variable], variable)


def from_arguments(pairs: Sequence[str], option: str = "--set") -> Iterator[Override]:
    """Yield the overrides of `NAME=VALUE` arguments. Raises UsageError."""
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"{option}: expected NAME=VALUE, got `{pair:.80}`", hint=f"{option} server.port=9000")
        yield Override(name.strip(), value, option)


Change: TypeAlias = tuple[str, JSON, JSON]


def compare_values(before: Mapping[str, JSON], after: Mapping[str, JSON]) -> list[Change]:
    """Return (name, value before, value after) of every knob that differs; None where it is not set."""
    names = sorted({*before, *after})
    return [(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]

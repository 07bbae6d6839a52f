# SPDX-License-Identifier: Apache-2.0
"""What every renderer of a directory gives: files made here, files of the bundle, and what a person does next."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources

from packager import canonical
from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.contract.contract import Contract
from packager.errors import UsageError
from packager.formats import platforms
from packager.formats.wheel_locks import PYLOCK
from packager.knobs import catalogue, knobs
from packager.knobs.knobs import Resolved
from packager.server.knobs import SECRETS
from packager.server.process import host_limits
from packager.types import Blob

RECORD = "deployment.json"


@dataclass(frozen=True, slots=True)
class Option:
    """One choice of a kind of deployment that is no knob. `pattern` is what its value must match entirely."""

    name: str
    metavar: str
    about: str
    pattern: str
    default: str = ""


TARGET = Option(
    "target", "NAME", "the name of a target; default: one for CPUs, the most exact", r"[a-z0-9][a-z0-9_.-]{0,99}"
)
PLATFORM = Option(
    "platform", "NAME", "a platform whose wheels the bundle carries; default: the only one", platforms.PLATFORM
)
IMAGE = r"[a-z0-9][a-z0-9._/:-]{0,200}@sha256:[0-9a-f]{64}"


@dataclass(frozen=True, slots=True)
class Rendered:
    """Files by path: bytes of ours, or blobs of the bundle by its path. `steps` are commands, one a line.

    `wheels` are blobs of the bundle to unpack: for each, `directory/file name` there, and its path in the bundle.
    """

    made: Mapping[str, bytes]
    copied: Mapping[str, tuple[str, Blob]]
    steps: tuple[str, ...]
    wheels: Mapping[str, str] = field(default_factory=dict)


def choose_options(options: Sequence[Option], given: Mapping[str, str | None]) -> dict[str, str]:
    """Return the value of every option. Raises UsageError for one that is not of its form."""
    found = {}
    for option in options:
        value = given.get(option.name) or option.default
        if value and not re.fullmatch(option.pattern, value):
            raise UsageError(f"--{option.name}: `{value:.80}` is not {option.about.partition(';')[0]}")
        found[option.name] = value
    return found


def read_required(found: Mapping[str, str], name: str, example: str) -> str:
    """Return an option that has no default. Raises UsageError."""
    if not found[name]:
        raise UsageError(f"--{name} is missing", hint=f"such as --{name} {example}")
    return found[name]


def select_blobs(bundle: Bundle, paths: Mapping[str, str]) -> dict[str, tuple[str, Blob]]:
    """Return the files of the bundle to copy: path there to path here. Raises UsageError for one it lacks."""
    found = {}
    for place, path in paths.items():
        blob = bundle.tree.get(path)
        if blob is None:
            raise UsageError(f"`{path}` is not in the bundle")
        found[place] = (path, blob)
    return found


def select_wheels(bundle: Bundle, runtime: str, wanted: str) -> tuple[str, dict[str, str]]:
    """Return a platform, `wanted` or the only one, and its wheels: file name to path in the bundle.

    Raises UsageError if the bundle does not carry them.
    """
    lock = f"deps/{runtime}/{PYLOCK}"
    sets: Mapping[str, list[str]] = {}
    if bundle.tree.get(lock) is not None:
        sets = tomllib.loads(bundle.read(lock).decode())["tool"]["packager"]["platforms"]
    complete = sorted(
        name for name, files in sets.items() if all(bundle.tree.get(f"deps/{runtime}/wheels/{file}") for file in files)
    )
    if not complete:
        raise UsageError(f"`{bundle.name}` carries no wheels", hint="add `vendor: [linux_x86_64-cp311]` to the recipe")
    listed = ", ".join(f"`{name}`" for name in complete)
    if not wanted and len(complete) > 1:
        raise UsageError(f"`{bundle.name}` carries wheels for {listed}", hint=f"choose one: --platform {complete[0]}")
    chosen = wanted or complete[0]
    if chosen not in complete:
        raise UsageError(f"`{bundle.name}` carries no wheels for `{chosen}`", hint=f"it has those for {listed}")
    return chosen, {file: f"deps/{runtime}/wheels/{file}" for file in sets[chosen]}


def estimate_memory(bundle: Bundle, values: Resolved) -> int:
    """Return the MiB of one server: those the site set, else what it needs with these knobs."""
    found = values.values
    needed = host_limits.memory_needed(
        catalogue.model_memory(bundle.contract.document),
        int(found.get("server.processes", 1)),
        int(found.get("runtime.processes", 0)),
        int(found.get("server.max_body", 64 << 20)),
        _traffic(bundle.contract),
    )
    own = values.settings.get("deploy.memory")
    if own is not None and own.origin != knobs.DEFAULT:
        return int(own.value)
    return max(int(own.value) if own else 0, -(-needed >> 20))


def _traffic(contract: Contract) -> host_limits.Traffic:
    """Return what requests of this contract are like, as the server reckons."""
    limits = {name: span.limit for name, span in contract.dimensions.items()}
    spans = {name: limit.high and max([limit.high, *limit.also]) for name, limit in limits.items()}
    inputs, outputs = (
        [
            (_item(port.dtype), [size if isinstance(size, int) else spans.get(size) for size in port.shape])
            for port in ports
        ]
        for ports in (contract.inputs, contract.outputs)
    )
    return host_limits.Traffic.of(inputs, outputs)


def _item(dtype: str) -> int:
    """Return the bytes of an element; 64 for a text."""
    bits = dtype.lstrip("abcdefghijklmnopqrstuvwxyz")
    return 64 if dtype == "string" else int(bits) // 8 if bits.isdecimal() else 1


def build_record(
    kind: str,
    bundle: Bundle,
    values: Resolved,
    options: Mapping[str, str],
    copied: Mapping[str, tuple[str, Blob]],
    program: Mapping[str, bytes] | None = None,
) -> bytes:
    """Return `deployment.json`: which bundle, which knobs, and the digest of every file of the bundle in it.

    `program` are files of ours whose digests a loader checks as well.
    """
    own = {"program": {place: canonical.sha256(data) for place, data in program.items()}} if program else {}
    return canonical.dump(
        {
            **own,
            "kind": kind,
            "name": bundle.name,
            "version": bundle.version,
            "bundle": bundle.digest,
            "knobs": values.digest,
            "values": public_values(values),
            "options": {**options},
            "files": {place: blob.digest for place, (_, blob) in copied.items()},
        }
    )


def public_values(values: Resolved) -> dict[str, JSON]:
    """Return the values without the places of secrets."""
    return {name: value for name, value in values.values.items() if name not in SECRETS}


def read_template(path: str) -> bytes:
    """Return a file of `templates/`."""
    return resources.files("packager.templates").joinpath(path).read_bytes()


def fill_template(path: str, **values: str) -> bytes:
    """Return a text of `templates/` with every `@NAME@` replaced. Raises KeyError for one that has no value."""
    text = read_template(path).decode()
    return re.sub(r"@([A-Z_]+)@", lambda found: values[found[1].lower()], text).encode()


def yaml_text(value: JSON, *, sort: bool = False) -> bytes:
    """Return a value as YAML: members in their order, nothing folded, no references, which some tools do not read."""
    import yaml  # not needed to list what can be rendered

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            return True

    text: str = yaml.dump(value, Dumper=Plain, sort_keys=sort, default_flow_style=False, width=1 << 16)
    return text.encode()

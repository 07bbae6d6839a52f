# SPDX-License-Identifier: Apache-2.0
"""The fleet file: which sites there are, and what runs there. Written by people, or by `packager doctor` on a host.

    sites:
      acme:
        runtimes: {onnxruntime: 1.16.3, triton: 24.05}
        python: "3.11"
        machine: x86_64
        cpu: [avx2, fma]
        memory: 16GiB
        devices: [{name: NVIDIA L4, capability: "8.9", memory: 24GiB}]
        driver: 550.54.15
        knobs: {threads: 4}

Only `runtimes` is needed. What is left out is not known and not held against the bundle. A file may hold several such
documents, each behind a line `---`, as `packager doctor >> fleet.yaml` makes it: of one site the last entry counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from packager import strictyaml
from packager.canonical import JSON
from packager.errors import UsageError
from packager.recipe import fields
from packager.recipe.fields import RUNTIME
from packager.strictyaml import Node, Scalar

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_WORD, _MAX_WORD = r"[A-Za-z0-9_.-]+", 128
_VERSION = r"[0-9]+(\.[0-9]+)*([a-z+.-][A-Za-z0-9.+-]*)?"
_INFERENCE = re.compile(  # what kernels of matrix products are chosen by, as Linux names it on x86-64 and on Arm
    r"sse4_[12]|avx\w*|fma|f16c|amx_\w+|asimd\w*|fphp|i8mm|bf16|svei8mm|svebf16|sve2?|sme2?"
)
_MEMBERS = ("runtimes", "python", "machine", "cpu", "memory", "disk", "devices", "driver", "knobs", "sandbox")


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU: its name, compute capability, and memory in bytes."""

    name: str
    capability: str
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """One place that runs bundles; empty and None mean not stated. `memory` and `disk` are in bytes."""

    name: str
    runtimes: Mapping[str, str]
    python: str | None = None
    machine: str | None = None
    cpu: tuple[str, ...] = ()
    memory: int | None = None
    disk: int | None = None
    devices: tuple[Device, ...] = ()
    driver: str | None = None
    knobs: Mapping[str, JSON] = field(default_factory=dict)
    sandbox: bool | None = None

    @property
    def capabilities(self) -> tuple[str, ...]:
        """The compute capabilities of its GPUs."""
        return tuple(sorted({device.capability for device in self.devices}))


def load(path: Path) -> tuple[Site, ...]:
    """Read the fleet file at `path`. Raises UsageError with the line."""
    return parse(strictyaml.load(path, missing="write one, or begin with what `packager doctor` prints"), str(path))


def parse(data: bytes | str, file: str) -> tuple[Site, ...]:
    """Parse the text of a fleet file, sorted by site; `file` is what messages call it."""
    text = data if isinstance(data, str) else strictyaml.decode(data, file)
    found: dict[str, Site] = {}
    for document in _documents(text):
        found |= {site.name: site for site in _sites(document, file)}
    return tuple(found[name] for name in sorted(found))


def _documents(text: str) -> Iterator[str]:
    """Yield the documents of a file, each on the lines where it stands; an empty one only if there is no other."""
    parts = re.split(r"^---[ \r]*$", text, flags=re.MULTILINE)
    ends = list(accumulate(part.count("\n") for part in parts))
    kept = [(part, end - part.count("\n")) for part, end in zip(parts, ends, strict=True) if _says(part)]
    yield from ("\n" * before + part for part, before in kept or [(text, 0)])


def _says(part: str) -> bool:
    return any(row.strip() and not row.strip().startswith("#") for row in part.splitlines())


def _sites(data: str, file: str) -> Iterator[Site]:
    members = strictyaml.read_fields(strictyaml.parse(data, file), "fleet", ("sites",), required=("sites",))
    entries = strictyaml.read_table(members["sites"], "sites", least=1).entries
    yield from (_site(fields.entry_name(key, "sites", _NAME), member) for key, member in entries)


def _site(name: str, node: Node) -> Site:
    members = strictyaml.read_fields(node, f"sites.{name}", _MEMBERS, required=("runtimes",))
    entries = strictyaml.read_table(members["runtimes"], f"sites.{name}.runtimes").entries
    runtimes = {fields.entry_name(key, "runtimes", RUNTIME): _version(v, key.text) for key, v in entries}
    knobs = strictyaml.read_table(members["knobs"], "knobs").entries if "knobs" in members else ()
    return Site(
        name,
        runtimes,
        python=_version(members["python"], "python") if "python" in members else None,
        machine=_word(members["machine"], "machine") if "machine" in members else None,
        cpu=_features(members.get("cpu"), name),
        memory=_size(members, "memory"),
        disk=_size(members, "disk"),
        devices=tuple(_device(item, name) for item in _items(members.get("devices"), name)),
        driver=_version(members["driver"], "driver") if "driver" in members else None,
        knobs={key.text: value.value() if isinstance(value, Scalar) else None for key, value in knobs},
        sandbox=strictyaml.read_boolean(members["sandbox"], "sandbox") if "sandbox" in members else None,
    )


def _size(members: Mapping[str, Node], key: str) -> int | None:
    return fields.read_memory(members[key], key) if key in members else None


def _items(node: Node | None, name: str) -> list[Node]:
    return [] if node is None else list(strictyaml.read_items(node, f"sites.{name}.devices", most=64))


def _features(node: Node | None, name: str) -> tuple[str, ...]:
    items = [] if node is None else strictyaml.read_items(node, f"sites.{name}.cpu", most=512)
    return tuple(sorted({_word(item, f"sites.{name}.cpu") for item in items}))


def _device(node: Node, name: str) -> Device:
    what = f"sites.{name}.devices"
    members = strictyaml.read_fields(node, what, ("name", "capability", "memory"), required=("capability",))
    memory = fields.read_memory(members["memory"], f"{what}.memory") if "memory" in members else None
    title = strictyaml.read_text(members["name"], f"{what}.name", limit=256) if "name" in members else "GPU"
    return Device(title, _version(members["capability"], "capability"), memory)


def _word(node: Node, what: str) -> str:
    return strictyaml.read_text(node, what, pattern=_WORD, expect="one word", limit=_MAX_WORD)


def _version(node: Node, what: str) -> str:
    """Read a version as it is written: `24.10` is no number here."""
    written = node.text if isinstance(node, Scalar) else ""
    if isinstance(node, Scalar) and node.kind in ("int", "float"):
        return written
    return strictyaml.read_text(node, what, pattern=_VERSION, expect="a version such as `1.16.3`", limit=64)


def check_name(name: str) -> None:
    """Raise UsageError unless a site can be called so."""
    if not re.fullmatch(_WORD, name) or len(name) > _MAX_WORD:
        raise UsageError(f"`{name:.80}` is no name of a site", hint="letters, digits, `_`, `.` and `-`")


def write(site: Site, *, folded: bool = False) -> str:
    """Return the text of a fleet file with one site, which may be appended to another; `parse` reads it back.

    `folded` is for a reader: the list of CPU features, a hundred and more, becomes a comment that counts them and names
    those that inference uses. A part of the list would say that the site lacks the rest, a comment leaves it unknown.
    """
    lines = ["---", "sites:", f"  {site.name}:", f"    runtimes: {_flow(site.runtimes)}"]
    plain = {"python": site.python, "machine": site.machine, "driver": site.driver}
    lines += [f"    {key}: {json.dumps(value)}" for key, value in plain.items() if value is not None]
    if site.cpu and folded:
        lines.append(f"    # cpu: {_count_features(site.cpu)}; all with --json, -o FILE or `>> FILE`")
    elif site.cpu:
        lines.append(f"    cpu: [{', '.join(map(json.dumps, site.cpu))}]")
    sizes = {"memory": site.memory, "disk": site.disk}
    lines += [f"    {key}: {value >> 20}MiB" for key, value in sizes.items() if value]
    if site.devices:
        lines.append(f"    devices: [{', '.join(map(_device_text, site.devices))}]")
    if site.knobs:
        lines.append(f"    knobs: {json.dumps(dict(site.knobs))}")
    if site.sandbox is not None:
        lines.append(f"    sandbox: {json.dumps(site.sandbox)}")
    return "\n".join(lines) + "\n"


def _count_features(cpu: tuple[str, ...]) -> str:
    used = [feature for feature in cpu if _INFERENCE.fullmatch(feature)]
    return f"{len(cpu)} feature{'s' * (len(cpu) != 1)}, for inference: {', '.join(used) or 'none'}"


def _flow(values: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{key}: {json.dumps(value)}" for key, value in values.items()) + "}"


def _device_text(device: Device) -> str:
    size = f", memory: {device.memory >> 20}MiB" if device.memory else ""
    return f"{{name: {json.dumps(device.name)}, capability: {json.dumps(device.capability)}{size}}}"

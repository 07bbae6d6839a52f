# SPDX-License-Identifier: Apache-2.0
"""Say in words how two files differ that should be equal: by what they mean where the format is known, else by bytes.

ONNX graphs, safetensors headers and JSON (the SBOM is JSON) become plain values, and one comparison walks them. Rows of
a list are matched by what names them, so a component that is new does not shift all others. Nothing is executed, and
no library opens what is compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import PurePosixPath

from packager import canonical
from packager.canonical import JSON
from packager.formats import onnx_files
from packager.formats.onnx_files import Message, Reader, Span

MOST = 8  # differences listed of one file
LARGEST = 256 << 20  # bytes of a file that is read to be explained
_NAMES = ("bom-ref", "ref", "name", "path")  # members that name a row of a list
_TEXTS = frozenset({".txt", ".md", ".toml", ".pbtxt", ".xml", ".html", ".jinja"})
_GRAPH_INPUT, _GRAPH_OUTPUT, _INITIALIZER, _OPSET = 11, 12, 5, 8
_Absent = object()


def explain(path: str, before: bytes, after: bytes) -> list[str]:
    """Return at most `MOST` sentences, and how many more there would be."""
    found = list(_by_format(path, before, after)) or [_bytes(before, after)]
    more = len(found) - MOST
    return [*found[:MOST], *([f"and {more} more"] if more > 0 else [])]


def _by_format(path: str, before: bytes, after: bytes) -> Iterator[str]:
    suffix = PurePosixPath(path).suffix
    try:
        if suffix == ".onnx":
            yield from explain_values(_graph(before), _graph(after))
        elif suffix == ".json":
            yield from explain_values(*(canonical.load(data, limit=LARGEST) for data in (before, after)))
        elif suffix == ".safetensors":
            yield from explain_values(_tensors(before), _tensors(after))
        elif suffix in _TEXTS:
            yield from _lines(before, after)
    except (ValueError, IndexError, KeyError, TypeError) as error:
        yield f"one of them is no readable `{suffix}` file: {error!s:.200}"


# plain values


def explain_values(before: JSON, after: JSON, where: str = "") -> Iterator[str]:
    """Yield one sentence for each place in which two JSON values differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after}):
            yield from explain_values(
                before.get(key, _Absent), after.get(key, _Absent), f"{where}.{key}" if where else key
            )
    elif isinstance(before, list) and isinstance(after, list):
        named = _named(before), _named(after)
        if named[0] is not None and named[1] is not None:
            yield from explain_values(*named, where)
            if named[0] == named[1] and list(named[0]) != list(named[1]):
                yield f"`{where}` has another order"
            return
        for index, (left, right) in enumerate(zip_longest(before, after, fillvalue=_Absent)):
            yield from explain_values(left, right, f"{where}[{index}]")
    elif before is _Absent:
        yield f"`{where}` is new: {_short(after)}"
    elif after is _Absent:
        yield f"`{where}` is gone: {_short(before)}"
    elif type(before) is not type(after) or before != after:
        yield f"`{where}` was {_short(before)}, is {_short(after)}"


def _named(rows: Sequence[JSON]) -> dict[str, JSON] | None:
    """Return a list as a table, if each row has a name and no two have one."""
    for key in _NAMES:
        if rows and all(isinstance(row, dict) and isinstance(row.get(key), str) for row in rows):
            table = {row[key]: row for row in rows}
            return table if len(table) == len(rows) else None
    return {} if not rows else None


def _short(value: object) -> str:
    text = canonical.dump(value).decode()
    return text if len(text) <= 100 else f"{text[:97]}…"


# formats


def _graph(data: bytes) -> JSON:
    """Return an ONNX model as plain values: levels, ports, constants by name and digest, nodes in order."""
    reader = Reader(memoryview(data))
    model = reader.read((0, len(data)))
    opsets = [reader.read(span) for span in reader.spans(model, _OPSET)]
    (span,) = reader.spans(model, onnx_files.GRAPH)
    graph = reader.read(span)
    return {
        "ir": reader.integer(model, 1),
        "producer": reader.text(model, 2),
        "opset": {reader.text(item, 1) or "ai.onnx": reader.integer(item, 2) for item in opsets},
        "functions": [_digest(reader, item) for item in reader.spans(model, 25)],
        "graph": reader.text(graph, 2),
        "inputs": _ports(reader, graph, _GRAPH_INPUT),
        "outputs": _ports(reader, graph, _GRAPH_OUTPUT),
        "constants": dict(_constant(reader, item) for item in reader.spans(graph, _INITIALIZER)),
        "nodes": [_node(reader, reader.read(item)) for item in reader.spans(graph, 1)],
    }


def _ports(reader: Reader, graph: Message, number: int) -> JSON:
    return {reader.text(reader.read(span), 1): _digest(reader, span) for span in reader.spans(graph, number)}


def _constant(reader: Reader, span: Span) -> tuple[str, JSON]:
    message = reader.read(span)
    value: dict[str, JSON] = {"dims": reader.integers(message, 1, 64), "type": reader.integer(message, 2)}
    places = dict(onnx_files.read_entry(reader.view, *item) for item in reader.spans(message, 13))
    return reader.text(message, 8), {**value, **(places or {"data": _digest(reader, span)})}


def _node(reader: Reader, message: Message) -> JSON:
    attributes = {}
    for span in reader.spans(message, 5):
        attribute = reader.read(span)
        numbers = reader.integers(attribute, 8, 64) if 8 in attribute else reader.integer(attribute, 3)
        attributes[reader.text(attribute, 1)] = numbers if {3, 8} & attribute.keys() else _digest(reader, span)
    return {
        "name": " ".join(reader.texts(message, 2)),  # of its results, which are unique in a graph
        "operator": reader.text(message, 4),
        "domain": reader.text(message, 7),
        "label": reader.text(message, 3),
        "inputs": reader.texts(message, 1),
        "attributes": attributes,
    }


def _digest(reader: Reader, span: Span) -> str:
    return canonical.sha256(bytes(reader.view[span[0] : span[1]]))[:19]


def list_regions(data: bytes) -> dict[str, list[tuple[int, int, str]]]:
    """Return which constants of an ONNX model lie where in which external file: (start, end, name)."""
    found: dict[str, list[tuple[int, int, str]]] = {}
    for name, place in _graph(data)["constants"].items():
        if "location" in place:
            start = int(place.get("offset", 0))
            found.setdefault(place["location"], []).append((start, start + int(place.get("length", 0)), name))
    return found


def explain_weights(before: bytes, after: bytes, places: Sequence[tuple[int, int, str]]) -> list[str]:
    """Say which constants of an external data file differ; `places` as `list_regions` gives them."""
    found = [f"constant `{name}` differs" for start, end, name in places if before[start:end] != after[start:end]]
    more = len(found) - MOST
    return [*found[:MOST], *([f"and {more} more"] if more > 0 else [])] or [_bytes(before, after)]


def _tensors(data: bytes) -> JSON:
    length = int.from_bytes(data[:8], "little")
    header: Mapping[str, JSON] = canonical.load(data[8 : 8 + length].rstrip(b" "), limit=LARGEST)
    body = data[8 + length :]
    return {
        name: {**about, "data": canonical.sha256(body[slice(*about["data_offsets"])])[:19]}
        for name, about in header.items()
        if name != "__metadata__"
    }


def _lines(before: bytes, after: bytes) -> Iterator[str]:
    rows = zip_longest(*(data.decode("utf-8", "replace").splitlines() for data in (before, after)))
    for number, (left, right) in enumerate(rows, 1):
        if left != right:
            yield f"line {number} was {_short(left)}, is {_short(right)}"


def _bytes(before: bytes, after: bytes) -> str:
    if len(before) != len(after):
        return f"{len(before)} bytes, are {len(after)}"
    differing = sum(left != right for left, right in zip(before, after, strict=True))
    first = next(index for index, (left, right) in enumerate(zip(before, after, strict=True)) if left != right)
    return f"{differing} of {len(before)} bytes differ, the first at {first}"

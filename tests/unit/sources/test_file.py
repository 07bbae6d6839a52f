# SPDX-License-Identifier: Apache-2.0
"""One `.onnx` or `.pt2` file as a source; an independent reader (`onnx`) says what the external data is."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from packager.errors import PackagerError, SourceError
from packager.events import ignore
from packager.formats import onnx_files
from packager.sources import Settings, file
from packager.types import Tree
from tests.support.breadth import examples


def tensor(name: str, location: str | None = None, size: int = 16) -> Any:
    made = numpy_helper.from_array(np.arange(size, dtype=np.float32), name)
    if location is not None:
        onnx.external_data_helper.set_external_data(made, location, offset=0, length=4 * size)
        made.ClearField("raw_data")
        made.data_location = TensorProto.EXTERNAL
    return made


def model(*initializers: Any, nodes: tuple[Any, ...] = (), **more: Any) -> Any:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [16])
    nodes = nodes or (helper.make_node("Identity", ["x"], ["y"]),)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [16])
    return helper.make_model(helper.make_graph(nodes, "g", [value], [output], list(initializers)), **more)


def save(made: Any, path: Path) -> Path:
    path.write_bytes(made.SerializeToString())
    return path


def names(folder: Path, ref: str = "m.onnx") -> list[str]:
    return [path for path, _ in Tree.from_json(file.resolve(ref, Settings(folder)).details["files"])]


def refusal(folder: Path, ref: str = "m.onnx") -> str:
    with pytest.raises(PackagerError) as caught:
        file.resolve(ref, Settings(folder))
    assert caught.value.code == 3
    assert str(folder) not in caught.value.message
    return caught.value.message


def test_one_file_is_one_file(tmp_path: Path) -> None:
    save(model(tensor("w")), tmp_path / "m.onnx")
    (tmp_path / "neighbour.bin").write_bytes(b"x")
    assert names(tmp_path) == ["m.onnx"]
    assert file.resolve("m.onnx", Settings(tmp_path)).details["main"] == "m.onnx"


def test_pt2_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "m.pt2").write_bytes(b"PK")
    assert names(tmp_path, "m.pt2") == ["m.pt2"]


def test_external_data_comes_along_and_the_copy_loads(tmp_path: Path) -> None:
    made = model(tensor("a", size=4096), tensor("b", size=4096))
    onnx.save(made, tmp_path / "m.onnx", save_as_external_data=True, location="weights.data", size_threshold=0)
    settings_ = Settings(tmp_path, "m.onnx")
    out = tmp_path / "out"
    out.mkdir()
    file.fetch(file.resolve("m.onnx", settings_), settings_, out, ignore)
    assert sorted(path.name for path in out.iterdir()) == ["m.onnx", "weights.data"]
    assert onnx.load(out / "m.onnx") == onnx.load(tmp_path / "m.onnx")


def everywhere(location: str) -> Any:
    """Put external tensors wherever onnx.proto3 allows a tensor."""
    n = iter(range(99))

    def new() -> Any:
        return tensor(f"t{next(n)}", f"{location}{next(n)}")

    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=new())],
        "inner",
        [],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [16])],
        [new()],
    )
    sparse = helper.make_sparse_tensor(new(), tensor("i", f"{location}x"), [16])
    custom = helper.make_node("Custom", [], ["d"], domain="acme", many=[new(), new()], graphs=[inner, inner])
    function = helper.make_function(
        "acme", "F", ["a"], ["b"], [helper.make_node("Constant", [], ["b"], value=new())], []
    )
    function.attribute_proto.append(helper.make_attribute("default", new()))
    made = model(new(), nodes=(helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner), custom))
    made.functions.append(function)
    made.graph.sparse_initializer.append(sparse)
    made.graph.node[1].attribute.append(helper.make_attribute("one", sparse))
    made.training_info.add().algorithm.CopyFrom(inner)
    return made


def locations(message: Any) -> set[str]:
    """Return the locations of all external tensors by walking the generated classes: the judge of our walk."""
    if isinstance(message, TensorProto):
        external = message.data_location == TensorProto.EXTERNAL
        return {entry.value for entry in message.external_data if entry.key == "location"} if external else set()
    found: set[str] = set()
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in value if hasattr(value, "append") or hasattr(value, "add") else [value]:
                found |= locations(each)
    return found


def test_external_data_is_found_wherever_a_tensor_may_be(tmp_path: Path) -> None:
    made = everywhere("w")
    expected = locations(made)
    assert len(expected) == 9
    assert set(file.external_data(save(made, tmp_path / "m.onnx"))) == expected


def test_a_location_without_the_mark_external_is_ignored(tmp_path: Path) -> None:
    odd = tensor("w", "nowhere.bin")
    odd.data_location = TensorProto.DEFAULT
    assert file.external_data(save(model(odd), tmp_path / "m.onnx")) == ()


@pytest.mark.parametrize("location", ["../w.bin", "/etc/hostname", "a/../../w.bin", "a\\w.bin", "", ".", "w\x07.bin"])
def test_data_outside_the_directory_is_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(64))
    save(model(tensor("w", location)), tmp_path / "models" / "m.onnx")
    assert refusal(tmp_path, "models/m.onnx").startswith("`m.onnx` keeps weights elsewhere: path ")


def test_data_below_the_directory_is_taken(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "w.bin").write_bytes(bytes(64))
    save(model(tensor("w", "shards/w.bin")), tmp_path / "m.onnx")
    assert names(tmp_path) == ["m.onnx", "shards/w.bin"]


def test_linked_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "w.bin").write_bytes(bytes(64))
    save(model(tensor("w", "w.bin")), tmp_path / "m.onnx")
    assert refusal(tmp_path) == "external data `w.bin` of `m.onnx` is not there"
    (tmp_path / "w.bin").symlink_to("elsewhere/w.bin")
    assert refusal(tmp_path) == "external data `w.bin` of `m.onnx` is a symbolic link"
    save(model(tensor("w", "shards/w.bin")), tmp_path / "m.onnx")
    (tmp_path / "shards").symlink_to("elsewhere")
    assert refusal(tmp_path) == "external data `shards/w.bin` of `m.onnx` is a symbolic link"


def test_data_in_the_graph_file_itself_is_refused(tmp_path: Path) -> None:
    save(model(tensor("w", "m.onnx")), tmp_path / "m.onnx")
    assert refusal(tmp_path) == "external data `m.onnx` of `m.onnx` is not there"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "truncated: it is empty"),
        (b"PK\x03\x04 a zip, no graph", "is not an ONNX file"),
        (b"<html>not found</html>", "is not an ONNX file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is not an ONNX file"),
        (b"\x08\x0a", "it holds no graph"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "is not an ONNX file"),
    ],
)
def test_what_is_no_onnx_file_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    assert reason in refusal(tmp_path)


def test_a_truncated_file_is_refused_or_names_fewer_files(tmp_path: Path) -> None:
    """Cut between two fields of the model it is still a model; anywhere else it is not."""
    whole = everywhere("w").SerializeToString()
    refused = 0
    for size in range(0, len(whole), 7):
        (tmp_path / "m.onnx").write_bytes(whole[:size])
        try:
            assert set(file.external_data(tmp_path / "m.onnx")) <= locations(onnx.load_from_string(whole))
        except SourceError:
            refused += 1
    assert refused > 0.9 * len(range(0, len(whole), 7))


@settings(max_examples=examples(300), deadline=None)
@given(st.binary(max_size=300))
def test_the_walk_is_total(content: bytes) -> None:
    with memoryview(content) as view, contextlib.suppress(ValueError, IndexError):
        list(onnx_files._model_locations(view))


def test_nested_graphs_are_bounded(tmp_path: Path) -> None:
    body = b""
    for _ in range(2000):
        node = _field(1, _field(5, _field(6, body)))
        body = node
    (tmp_path / "m.onnx").write_bytes(_field(7, body))
    assert "nested too deeply" in refusal(tmp_path)


def _field(number: int, body: bytes) -> bytes:
    size, out = len(body), bytearray([number << 3 | 2])
    while size >= 0x80:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes(out) + bytes([size]) + body


def test_weights_inside_are_skipped_not_read(tmp_path: Path) -> None:
    """A sparse file of 1 GiB, of which the kernel counts what is read."""
    size = 1 << 30
    head = _varint_field(9, size)
    tensor_size = len(head) + size
    graph = _varint_field(5, tensor_size)
    with (tmp_path / "m.onnx").open("wb") as out:
        out.write(_varint_field(7, len(graph) + tensor_size) + graph + head)
        out.truncate(out.tell() + size)
    before = _bytes_read()
    assert file.external_data(tmp_path / "m.onnx") == ()
    assert _bytes_read() - before < 1 << 20


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def _varint_field(number: int, size: int) -> bytes:
    out = bytearray([number << 3 | 2])
    while size >= 0x80:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*out, size])


def test_the_file_itself(tmp_path: Path) -> None:
    assert refusal(tmp_path) == "file `m.onnx` does not exist"
    (tmp_path / "real.onnx").write_bytes(b"x")
    (tmp_path / "m.onnx").symlink_to("real.onnx")
    assert refusal(tmp_path) == "`m.onnx` is a symbolic link"
    (tmp_path / "folder.onnx").mkdir()
    assert refusal(tmp_path, "folder.onnx") == "`folder.onnx` is not a regular file"


def test_changed_weights_are_named(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(64))
    save(model(tensor("w", "w.bin")), tmp_path / "m.onnx")
    settings_ = Settings(tmp_path, "m.onnx")
    pin = file.resolve("m.onnx", settings_)
    (tmp_path / "w.bin").write_bytes(bytes(63) + b"x")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(SourceError, match=r"`w\.bin` is not what the lock pinned"):
        file.fetch(pin, settings_, out, ignore)


def test_a_pin_does_not_know_its_directory(tmp_path: Path) -> None:
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        save(model(tensor("w")), tmp_path / folder / "m.onnx")
    here = file.resolve("here/m.onnx", Settings(tmp_path))
    assert here == file.resolve(f"file://{tmp_path}/there/m.onnx", Settings(tmp_path))
    assert str(tmp_path) not in str(here.to_json())

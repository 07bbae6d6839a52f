# SPDX-License-Identifier: Apache-2.0
"""Headers of GGUF: what the `gguf` package wrote is read, and whatever else a file says is refused in one sentence."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import pytest

from packager.errors import StepError
from packager.formats import gguf

KINDS = {"u8": 0, "i8": 1, "u16": 2, "i16": 3, "u32": 4, "i32": 5, "f32": 6, "bool": 7, "str": 8, "arr": 9, "u64": 10}
FORMS = {"u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "f32": "f", "bool": "?", "u64": "Q"}


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def pair(key: str | bytes, kind: str, value: Any) -> bytes:
    data = text(value) if kind == "str" else value if kind == "arr" else struct.pack(f"<{FORMS[kind]}", value)
    return text(key) + struct.pack("<I", KINDS[kind]) + data


def array(kind: int, count: int, data: bytes) -> bytes:
    return struct.pack("<IQ", kind, count) + data


def entry(
    name: str | bytes = "a", shape: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0, axes: int | None = None
) -> bytes:
    sizes = b"".join(struct.pack("<Q", size) for size in shape)
    return (
        text(name) + struct.pack("<I", len(shape) if axes is None else axes) + sizes + struct.pack("<IQ", kind, offset)
    )


ARCH = pair("general.architecture", "str", "llama")


def made(
    pairs: tuple[bytes, ...] = (ARCH,),
    tensors: tuple[bytes, ...] = (entry(),),
    data: bytes = b"\0" * 32,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> bytes:
    said = counts or (len(tensors), len(pairs))
    head = magic + struct.pack("<IQQ", version, *said) + b"".join(pairs) + b"".join(tensors)
    return head + b"\0" * (-len(head) % alignment) + data


SOUND = made()
HUGE = 1 << 63
LIES = {
    "empty": b"",
    "three bytes": b"GGU",
    "another magic": made(magic=b"GGML"),
    "big-endian": made(version=3 << 24),
    "version 1": made(version=1),
    "no counts": SOUND[:12],
    "more tensors than there are": made(counts=(2, 1)),
    "2**63 tensors": made(counts=(HUGE, 1)),
    "2**63 pairs": made(counts=(1, HUGE)),
    "fewer pairs than there are": made(counts=(1, 0)),
    "a key beyond the file": made((struct.pack("<Q", 200),)),
    "a key of 2**64-1 bytes": made((struct.pack("<Q", 2**64 - 1) + b"x",)),
    "an empty key": made((ARCH, pair("", "u8", 1))),
    "a key that is no ASCII": made((ARCH, pair("ä", "u8", 1))),
    "a key twice": made((ARCH, ARCH)),
    "no architecture": made((pair("general.name", "str", "x"),)),
    "an architecture that is a number": made((pair("general.architecture", "u32", 1),)),
    "a value of no type": made((ARCH, text("k") + struct.pack("<I", 99) + b"\0" * 8)),
    "a string beyond the file": made((ARCH, text("k") + struct.pack("<IQ", 8, 1 << 40) + b"x")),
    "a string that is no UTF-8": made((ARCH, pair("k", "str", b"\xff\xfe"))),
    "a boolean of 2": made((ARCH, text("k") + struct.pack("<I", 7) + b"\x02")),
    "a number that is none": made((ARCH, pair("k", "f32", float("nan")))),
    "an array of arrays": made((ARCH, pair("k", "arr", array(9, 1, array(0, 1, b"x"))))),
    "an array of 2**61 numbers": made((ARCH, pair("k", "arr", array(10, 1 << 61, b"")))),
    "an array of 2**40 strings": made((ARCH, pair("k", "arr", array(8, 1 << 40, b"")))),
    "an array whose strings end early": made((ARCH, pair("k", "arr", array(8, 2, text("x")))), ()),
    "booleans of 3": made((ARCH, pair("k", "arr", array(7, 2, b"\x01\x03")))),
    "an alignment of 0": made((ARCH, pair("general.alignment", "u32", 0))),
    "an alignment of 48": made((ARCH, pair("general.alignment", "u32", 48))),
    "an alignment that is a text": made((ARCH, pair("general.alignment", "str", "32"))),
    "a tensor without axes": made(tensors=(entry(shape=()),)),
    "a tensor of 2**32-1 axes": made(tensors=(entry(axes=2**32 - 1),)),
    "a size of 0": made(tensors=(entry(shape=(4, 0)),)),
    "sizes whose product wraps to 4": made(tensors=(entry(shape=(1 << 32, 1 << 32, 4, 1)),)),
    "a tensor of no type": made(tensors=(entry(kind=4),)),
    "half a block": made(tensors=(entry(shape=(16,), kind=8),)),
    "an offset beside the alignment": made(tensors=(entry(offset=4),)),
    "an offset beyond the file": made(tensors=(entry(offset=1 << 40),)),
    "an offset of 2**64-32": made(tensors=(entry(offset=2**64 - 32),)),
    "two tensors over each other": made(tensors=(entry("a"), entry("b")), data=b"\0" * 64),
    "a gap between tensors": made(tensors=(entry("a"), entry("b", offset=64)), data=b"\0" * 96),
    "two tensors of one name": made(tensors=(entry("a"), entry("a", offset=32)), data=b"\0" * 64),
    "a name of 65 bytes": made(tensors=(entry("x" * 65),)),
    "a name with a line break": made(tensors=(entry("a\nb"),)),
    "data that ends early": made(data=b"\0" * 12),
    "a stowaway behind the data": made(data=b"\0" * 64),
}


def test_a_sound_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(SOUND)
    found = gguf.read(tmp_path / "a.gguf")
    assert (found.version, found.architecture, found.quantised) == (3, "llama", ())
    assert found.tensors == (gguf.Tensor("a", "F32", (4,), len(SOUND) - 32, 16),)
    (tmp_path / "b.gguf").write_bytes(made(data=b"\0" * 16))  # a writer may leave the last padding out
    assert gguf.read(tmp_path / "b.gguf").tensors[0].bytes == 16


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_in_one_sentence(lie: str, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(LIES[lie])
    with pytest.raises(StepError) as refused:
        gguf.read(tmp_path / "a.gguf")
    assert refused.value.message.startswith("`a.gguf` is refused: ") and "\n" not in refused.value.message
    assert len(refused.value.message) < 300 and refused.value.hint


def test_any_cut_and_any_changed_byte_gives_a_header_or_a_sentence(tmp_path: Path) -> None:
    names = pair("tokenizer.ggml.tokens", "arr", array(8, 3, text("a") + text("b") + text("c")))
    kinds = pair("tokenizer.ggml.token_type", "arr", array(5, 3, struct.pack("<3i", 1, 1, 3)))
    whole = made(
        (ARCH, names, kinds, pair("general.alignment", "u32", 32)), (entry("a"), entry("b", (64,), 8, 32)), b"\0" * 100
    )
    draw, refused = random.Random(0), 0
    for number in range(3000):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            data[draw.randrange(len(data))] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
        path = tmp_path / "x.gguf"
        path.write_bytes(bytes(data[: draw.randrange(len(data))] if number % 3 == 0 else data))
        try:
            gguf.read(path)
        except StepError as error:
            refused += 1
            assert "\n" not in error.message and len(error.message) < 400
    assert refused > 1000


def test_the_sizes_of_blocks_are_those_of_the_library() -> None:
    library = pytest.importorskip("gguf", reason="gguf is not installed")
    for number, (name, block, width) in gguf.TYPES.items():
        kind = library.GGMLQuantizationType(number)
        assert (kind.name, library.GGML_QUANT_SIZES[kind]) == (name, (block, width))


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(SOUND)
    (tmp_path / "b.gguf").symlink_to(tmp_path / "a.gguf")
    with pytest.raises(Exception, match="symbolic link"):
        gguf.read(tmp_path / "b.gguf")

# SPDX-License-Identifier: Apache-2.0
"""Make and apply binary patches: a stream of segments, each in the smallest of three forms.

    segment = method (1 byte)  length (4 bytes, big-endian)  data
    0 whole     the bytes themselves
    1 prefix    zstd with the old blob's bytes around the same offset as dictionary: insertions, moved text
    2 planes    zstd over the four byte planes of new XOR old: weights that were trained a little further

A segment covers `SEGMENT` bytes of the new blob and reads at most `REACH` bytes of the old one around it, so both
directions need the same few tens of megabytes for a blob of any size. Patches are deterministic for one version of
libzstd. The reader checks the result against the digest of the new blob, so a hostile patch can only waste bounded
time.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from packager.errors import IntegrityError, MissingToolError

if TYPE_CHECKING:
    import zstandard

SEGMENT, REACH = 4 << 20, 2 << 20  # bytes
_HEAD = struct.Struct(">BI")
WHOLE, PREFIX, PLANES = range(3)
_LEVEL = 3
_GOOD_ENOUGH = SEGMENT // 50  # below this no second method is tried


def load_zstd() -> None:
    """Raise MissingToolError unless the extra is installed."""
    try:
        import zstandard  # noqa: F401
    except ImportError:
        raise MissingToolError("zstandard", "delta") from None


def make_patch(new: BinaryIO, old: BinaryIO) -> Iterator[bytes]:
    """Yield the patch that turns `old` into `new`; both are read once, in order."""
    window, start = _Window(old), 0
    while data := _read_up_to(new, SEGMENT):
        method, packed = min(_forms(data, window, start), key=lambda form: (len(form[1]), form[0]))
        yield _HEAD.pack(method, len(packed)) + packed
        start += len(data)


def _forms(data: bytes, window: _Window, start: int) -> Iterator[tuple[int, bytes]]:
    yield WHOLE, data
    around = window.around(start)
    planes = _compressor().compress(_planes(data, window.at(start, len(data))))
    yield PLANES, planes
    if len(planes) > _GOOD_ENOUGH and around:
        yield PREFIX, _prefix_compressor(around).compress(data)


def _compressor() -> zstandard.ZstdCompressor:
    import zstandard

    return zstandard.ZstdCompressor(level=_LEVEL)


def _prefix_compressor(around: bytes) -> zstandard.ZstdCompressor:
    """Return a compressor whose tables cover the whole dictionary: the defaults of a level use little of it."""
    import zstandard

    parameters = zstandard.ZstdCompressionParameters(
        window_log=24, hash_log=22, chain_log=22, strategy=zstandard.STRATEGY_DFAST, write_content_size=True
    )
    return zstandard.ZstdCompressor(dict_data=_dictionary(around), compression_params=parameters)


def _dictionary(around: bytes) -> zstandard.ZstdCompressionDict:
    import zstandard

    return zstandard.ZstdCompressionDict(around, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _xor(one: bytes, two: bytes) -> bytes:
    number = int.from_bytes(one, "little") ^ int.from_bytes(two, "little")
    return number.to_bytes(len(one), "little")


def _planes(data: bytes, old: bytes) -> bytes:
    """Return the XOR, split into byte planes, so that signs and exponents are adjacent."""
    different = _xor(data, old)
    return b"".join(different[plane::4] for plane in range(4))


def _from_planes(planes: bytes, old: bytes) -> bytes:
    different, position = bytearray(len(planes)), 0
    for plane in range(4):
        count = len(range(plane, len(planes), 4))
        different[plane::4] = planes[position : position + count]
        position += count
    return _xor(bytes(different), old)


class Patched(io.RawIOBase):
    """The new blob, read through its patch. `size` limits the output."""

    def __init__(self, patch: BinaryIO, old: BinaryIO, size: int, label: str) -> None:
        self._patch, self._old, self._window = patch, old, _Window(old)
        self._left, self._start, self._label = size, 0, label
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._ready and self._left:
            self._ready = memoryview(self._segment())
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _segment(self) -> bytes:
        size = min(SEGMENT, self._left)
        head = _read_up_to(self._patch, _HEAD.size)
        if len(head) != _HEAD.size:
            raise self._broken("it ends early")
        method, length = _HEAD.unpack(head)
        if length > SEGMENT + SEGMENT // 64:  # zstd grows incompressible data by less
            raise self._broken("a segment is too large")
        packed = _read_up_to(self._patch, length)
        data = self._unpack(method, packed, size)
        if len(packed) != length or len(data) != size:
            raise self._broken("a segment has another size than stated")
        self._start += size
        self._left -= size
        return data

    def _unpack(self, method: int, packed: bytes, size: int) -> bytes:
        around = self._window.around(self._start)
        if method == WHOLE:
            return packed
        if method == PREFIX and around:
            return self._decompress(packed, size, _dictionary(around))
        if method == PLANES:
            planes = self._decompress(packed, size, None)
            return _from_planes(planes, self._window.at(self._start, size)) if len(planes) == size else b""
        raise self._broken(f"method {method} is unknown")

    def _decompress(self, packed: bytes, size: int, dictionary: zstandard.ZstdCompressionDict | None) -> bytes:
        import zstandard

        try:
            if zstandard.frame_content_size(packed) != size:  # before anything is allocated for it
                raise self._broken("a segment has another size than stated")
            return zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=1 << 25).decompress(packed)
        except zstandard.ZstdError as error:
            raise self._broken(str(error)) from None

    def _broken(self, why: str) -> IntegrityError:
        return IntegrityError(f"a patch in `{self._label}` is malformed: {why}", subject=self._label)

    def close(self) -> None:
        self._patch.close()
        self._old.close()
        super().close()


class _Window:
    """The part of the old blob around the current segment; the blob is read once, in order."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._offset, self._data = file, 0, b""

    def around(self, start: int) -> bytes:
        """Return the old bytes from `REACH` before the segment at `start` to `REACH` after it."""
        first, last = max(0, start - REACH), start + SEGMENT + REACH
        missing = last - self._offset - len(self._data)
        if missing > 0:
            self._data += _read_up_to(self._file, missing)
        self._data = self._data[first - self._offset :]
        self._offset = first
        return self._data

    def at(self, start: int, size: int) -> bytes:
        """Return the old bytes at the same offset as the segment, padded with zeros."""
        first = start - self._offset
        return self._data[first : first + size].ljust(size, b"\0")


def _read_up_to(file: BinaryIO, size: int) -> bytes:
    parts, left = [], size
    while left and (data := file.read(min(left, 1 << 20))):
        parts.append(data)
        left -= len(data)
    return b"".join(parts)

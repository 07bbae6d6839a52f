# SPDX-License-Identifier: Apache-2.0
"""Read a SentencePiece model without its library: pieces, scores, and how texts are normalised.

Source: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from packager.formats.onnx_files import Message, Reader

UNIGRAM = 1
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
MAX_PIECES = 1 << 20
_PIECES, _TRAINER, _NORMALIZER, _DENORMALIZER = 1, 2, 3, 5
_FLAGS = (3, 4, 5)  # add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces: true where they are absent
_SUFFIXED = 24  # treat_whitespace_as_suffix
_FIXED32 = 5


@dataclass(frozen=True, slots=True)
class Piece:
    text: str
    score: float
    kind: int


@dataclass(frozen=True, slots=True)
class Model:
    """A model; `charsmap` is the compiled table of its normaliser, empty for none."""

    algorithm: int
    pieces: tuple[Piece, ...]
    charsmap: bytes
    plain: bool
    """Whether texts get a blank in front, blanks are joined, and U+2581 takes their place; nothing else is done."""


def parse(data: bytes) -> Model:
    """Return the model in the bytes of a `.spm` or `.model` file. Raises ValueError for anything else."""
    reader = Reader(memoryview(data))
    try:
        whole = reader.read((0, len(data)), single=(_TRAINER, _NORMALIZER))
        spans = reader.spans(whole, _PIECES)[: MAX_PIECES + 1]
        pieces = tuple(_piece(reader, reader.read(span)) for span in spans)
        trainer, normalizer, denormalizer = (
            reader.read((reader.spans(whole, number) or [(0, 0)])[0])
            for number in (_TRAINER, _NORMALIZER, _DENORMALIZER)
        )
        flags = all(_integer(reader, normalizer, number, 1) for number in _FLAGS)
        table, other = ((reader.spans(message, 2) or [(0, 0)])[0] for message in (normalizer, denormalizer))
        plain = flags and not _integer(reader, trainer, _SUFFIXED, 0) and other[0] == other[1]
        algorithm = _integer(reader, trainer, 3, UNIGRAM)
    except (IndexError, ValueError, struct.error) as error:
        raise ValueError("it is no SentencePiece model") from error
    if not 0 < len(pieces) <= MAX_PIECES:
        raise ValueError(f"it has {len(pieces)} pieces, expected 1 to {MAX_PIECES}")
    if not all(abs(piece.score) < float("inf") for piece in pieces):
        raise ValueError("a piece has a score that is no number")
    return Model(algorithm, pieces, data[slice(*table)], plain)


def _piece(reader: Reader, message: Message) -> Piece:
    scores = [struct.unpack_from("<f", reader.view, low)[0] for wire, low, _ in message.get(2, ()) if wire == _FIXED32]
    return Piece(reader.text(message, 1), scores[-1] if scores else 0.0, _integer(reader, message, 3, NORMAL))


def _integer(reader: Reader, message: Message, number: int, default: int) -> int:
    return reader.integer(message, number) if number in message else default

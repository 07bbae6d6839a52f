# SPDX-License-Identifier: Apache-2.0
"""The pictures that image pipelines are compared on: odd sizes, every mode, turned by EXIF, in three formats."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator
from typing import Any

_SIZES = ((1, 1), (2, 3), (7, 200), (31, 17), (64, 64), (97, 131), (224, 224), (320, 241), (640, 481), (3, 90))
_MODES = ("RGB", "L", "RGBA", "LA", "P", "CMYK", "I;16", "1")
_FORMATS = {"CMYK": ("JPEG",), "RGB": ("JPEG", "PNG", "WEBP"), "L": ("JPEG", "PNG")}
_ORIENTATION = 0x0112  # EXIF 2.3


def draw_pictures(seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield names and files, which follow from the seed and Pillow's encoders."""
    for number, size in enumerate(_SIZES):
        for mode in _MODES:
            picture = _drawn(mode, size, seed + number)
            for form in _FORMATS.get(mode, ("PNG",)):
                yield f"{size[0]}x{size[1]} {mode} {form}", _file(picture, form)
    for turn in range(2, 9):
        exif = importlib.import_module("PIL.Image").Exif()
        exif[_ORIENTATION] = turn
        yield f"JPEG turned by EXIF {turn}", _file(_drawn("RGB", (60, 41), turn), "JPEG", exif=exif, quality=90)
    yield "progressive JPEG", _file(_drawn("RGB", (123, 77), 1), "JPEG", progressive=True, quality=40)


def open_picture(data: bytes) -> Any:
    """Open a picture as transformers' `load_image` does."""
    picture = importlib.import_module("PIL.Image").open(io.BytesIO(data))
    return importlib.import_module("PIL.ImageOps").exif_transpose(picture).convert("RGB")


def _drawn(mode: str, size: tuple[int, int], seed: int) -> Any:
    """Return a picture with smooth parts and noise."""
    numpy, library = importlib.import_module("numpy"), importlib.import_module("PIL.Image")
    width, height = size
    draw = numpy.random.default_rng(seed)
    slope = numpy.add.outer(numpy.arange(height) * 255 / height, numpy.arange(width) * 255 / width) / 2
    base = slope[..., None] + draw.normal(0, 40, (height, width, 4))
    values = base.clip(0, 255).astype("uint8")
    if mode == "I;16":
        return library.fromarray(values[..., 0].astype("uint16") * 257)
    return library.fromarray(values, "RGBA" if mode != "CMYK" else "CMYK").convert(mode)


def _file(picture: Any, form: str, **settings: Any) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, form, **settings)
    return sink.getvalue()

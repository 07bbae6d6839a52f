# SPDX-License-Identifier: Apache-2.0
"""Pictures to pixel values: decoded by Pillow within limits, then resized, cropped, scaled and normalised.

The order and the arithmetic are those of transformers' image processors on Pillow (5.23): the picture is turned as its
EXIF says, converted to the channels of the model, and resized by Pillow's own filters.
"""

from __future__ import annotations

import importlib
import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from packager.server.errors import RequestError
from packager.server.pipeline.parts import Image
from packager.server.protocol.tensors import Array

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 1 << 26
_MOST_BYTES = 8  # of one pixel while it is decoded and converted
_MODES = {1: "L", 3: "RGB"}


class Images:
    """Makes the pixel values of pictures; several threads may use it."""

    def __init__(self, about: Image) -> None:
        """Import Pillow. Raises ImportError."""
        self._about = about
        self._library = importlib.import_module("PIL.Image")
        self._turn = importlib.import_module("PIL.ImageOps").exif_transpose
        self._filter = self._library.Resampling[about.resampling.upper()]

    def pixels(self, data: bytes, subject: str, hold: Callable[[int], None]) -> tuple[Array, tuple[int, int]]:
        """Return channels, rows and columns of a picture as float32, and its height and width. Raises RequestError."""
        picture = self._decoded(data, subject, hold)
        sent = (picture.size[1], picture.size[0])
        about = self._about
        if about.size is not None:
            width, height = self._resized(picture.size, subject)
            hold(4 * width * height)
            picture = picture.resize((width, height), resample=self._filter)
        values = np.asarray(picture)
        values = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
        if about.crop is not None:
            values = _cropped(values, about.crop)
        if about.scale is not None:
            values = (values.astype(np.float64) * about.scale).astype(np.float32)
        values = values.astype(np.float32)
        if about.mean:
            mean, deviation = (np.array(part, np.float32)[:, None, None] for part in (about.mean, about.deviation))
            values = (values - mean) / deviation
        return values, sent

    def feeds(self, pictures: Sequence[Array]) -> dict[str, Array]:
        """Return the inputs of the graph. Raises RequestError for several sizes where the graph takes no mask."""
        about = self._about
        shapes = sorted({pixels.shape for pixels in pictures})
        if len(shapes) > 1 and about.mask is None:
            raise RequestError(f"expected images of one size, got {shapes[0][1:]} and {shapes[1][1:]}")
        if about.mask is None:
            return {about.input: np.stack(pictures)}
        height, width = (max(shape[axis] for shape in shapes) for axis in (1, 2))
        filled = np.zeros((len(pictures), shapes[0][0], height, width), np.float32)
        mask = np.zeros((len(pictures), height, width), np.int64)
        for index, pixels in enumerate(pictures):
            filled[index, :, : pixels.shape[1], : pixels.shape[2]] = pixels
            mask[index, : pixels.shape[1], : pixels.shape[2]] = 1
        return {about.input: filled, about.mask: mask}

    def _decoded(self, data: bytes, subject: str, hold: Callable[[int], None]) -> Any:
        try:
            picture = self._library.open(io.BytesIO(data), formats=FORMATS)
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise RequestError(f"{subject}: expected at most {MAX_PIXELS} pixels, got {width}x{height}", status=413)
            hold(_MOST_BYTES * width * height)
            picture.load()
            return self._turn(picture).convert(_MODES[self._about.channels])
        except RequestError:
            raise
        except self._library.DecompressionBombError:
            raise RequestError(f"{subject}: expected at most {MAX_PIXELS} pixels, got more", status=413) from None
        except Exception as error:  # decoders raise what they like for bytes that are no picture
            known = ", ".join(FORMATS)
            raise RequestError(f"{subject}: expected a whole image ({known}): {str(error)[:100]}") from None

    def _resized(self, size: tuple[int, int], subject: str) -> tuple[int, int]:
        """Return width and height after resizing."""
        edges, (width, height) = self._about.size or (), size
        if len(edges) == 2:
            return edges[1], edges[0]
        if self._about.longest is not None:
            return self._between(edges[0], self._about.longest, size, subject)
        short, long = min(size), max(size)
        longer = int(edges[0] * long / short)
        if longer * edges[0] > MAX_PIXELS:
            raise RequestError(f"{subject}: {width}x{height} is too narrow to be resized", status=413)
        return (edges[0], longer) if width <= height else (longer, edges[0])

    def _between(self, edge: int, longest: int, size: tuple[int, int], subject: str) -> tuple[int, int]:
        """Return width and height for a shorter edge and the most of the longer one, as DETR's processor rounds."""
        width, height = size
        short, long, exact = min(size), max(size), float(edge)
        if long / short * edge > longest:
            exact = longest * short / long
            edge = round(exact)
        found = size
        if short != edge or (self._about.multiple > 1 and width < height):
            longer = int(exact * long / short)
            found = (edge, longer) if width < height else (longer, edge)
        step = self._about.multiple
        wide, high = (length - length % step for length in found)
        if not wide or not high:
            raise RequestError(f"{subject}: {width}x{height} is too narrow to be resized", status=413)
        return wide, high


def _cropped(values: Array, crop: tuple[int, int]) -> Array:
    """Return the middle of a picture, with zeros around one that is smaller."""
    height, width = values.shape[-2:]
    whole = (max(crop[0], height), max(crop[1], width))
    if whole != (height, width):
        above, left = math.ceil((whole[0] - height) / 2), math.ceil((whole[1] - width) / 2)
        larger = np.zeros((values.shape[0], *whole), values.dtype)
        larger[:, above : above + height, left : left + width] = values
        top, first = (height - crop[0]) // 2 + above, (width - crop[1]) // 2 + left
        return larger[:, max(0, top) : min(whole[0], top + crop[0]), max(0, first) : min(whole[1], first + crop[1])]
    top, first = (height - crop[0]) // 2, (width - crop[1]) // 2
    return values[:, top : top + crop[0], first : first + crop[1]]

# SPDX-License-Identifier: Apache-2.0
"""From the bytes of a WAV file to the log-mel spectrogram that a speech model reads; numpy alone.

The spectrogram is that of Whisper: a periodic Hann window, frames centred on multiples of the hop with reflected ends,
power, Slaney's mel scale and norm, the decimal logarithm, everything more than 8 below the largest value raised to
there, and (x + 4) / 4.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from packager.server.errors import RequestError
from packager.server.generation.decoding import MAX_RATE, MIN_RATE, Audio

Samples: TypeAlias = NDArray[np.float32]
MAX_CHANNELS = 32
_MAX_CHUNKS = 256
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_OTHER = {b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3": "MP3", b"\xff\xfb": "MP3", b"\x1aE\xdf\xa3": "WebM", b"FORM": "AIFF"}
_CONVERT = "convert it before: ffmpeg -i IN -ac 1 -ar 16000 OUT.wav"
_BETA = 5.0  # of the Kaiser window, as scipy.signal.resample_poly has it
_HALF = 10  # taps on each side, in periods of the slower rate
_TABLE = 4096  # taps of a period in the table
_LOOK_UPS = 800  # of a tap take as long as one phase of the loop
_WHOLE = 20_000  # steps of a period up to which the filter is made whole, in 38 MB; of 191,999 it would take 370
_BLOCK = 1 << 18  # taps that are looked up at once


@dataclass(frozen=True, slots=True)
class _Format:
    kind: int
    channels: int
    rate: int
    bits: int


def read_wav(data: bytes | bytearray | memoryview, most_seconds: float) -> tuple[Samples, int]:
    """Return the samples of a WAV file in [-1, 1], channels averaged, and how many come a second.

    PCM of 8, 16, 24 and 32 bits and floats of 32 and 64 bits are read. Raises RequestError for anything else, for a
    file that ends before its length, and for more than `most_seconds`.
    """
    content, form = _parts(data)
    return _samples(content, form, most_seconds), form.rate


def estimate_memory(data: bytes | bytearray | memoryview, audio: Audio) -> int:
    """Return the bytes that the samples and features of a WAV file take at most. Raises RequestError."""
    content, form = _parts(data)
    given = len(content) // (form.bits // 8)  # of all channels
    heard = max(given // form.channels * audio.rate // form.rate, audio.samples)
    block = audio.frames * audio.window * 24  # frames of one pass, and their spectrum
    block += estimate_filter_memory(form.rate, audio.rate)
    return given * 24 + heard * 32 + heard // audio.hop * audio.mels * 24 + block


def estimate_filter_memory(rate: int, wanted: int) -> int:
    """Return the bytes that the filter between two rates takes at most, as a whole or looked up in a table."""
    slower = max(rate, wanted) // math.gcd(rate, wanted)
    return 0 if rate == wanted else 2 * _HALF * min(slower, _WHOLE) * 96 + 64 * _BLOCK  # a tap, and what makes it


def _parts(data: bytes | bytearray | memoryview) -> tuple[memoryview, _Format]:
    view = memoryview(data)
    if bytes(view[:4]) != b"RIFF" or bytes(view[8:12]) != b"WAVE":
        found = next((name for mark, name in _OTHER.items() if bytes(view[: len(mark)]) == mark), "something else")
        found = "MP4" if bytes(view[4:8]) == b"ftyp" else found
        raise RequestError(f"expected a WAV file, got {found}; {_CONVERT}")
    form: _Format | None = None
    for name, content in _chunks(view):
        if name == b"fmt ":
            form = _format(content)
        elif name == b"data":
            if form is None:
                raise RequestError("the WAV file says nothing of its samples before they begin")
            return content, form
    raise RequestError("the WAV file holds no samples")


def _chunks(view: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    place = 12
    for _ in range(_MAX_CHUNKS):
        if place + 8 > len(view):
            return
        name, (size,) = bytes(view[place : place + 4]), struct.unpack_from("<I", view, place + 4)
        if place + 8 + size > len(view):
            raise RequestError("the WAV file ends before its samples do")
        yield name, view[place + 8 : place + 8 + size]
        place += 8 + size + size % 2


def _format(content: memoryview) -> _Format:
    if len(content) < 16:
        raise RequestError("the WAV file's description of its samples is cut")
    kind, channels, rate, _, block, bits = struct.unpack_from("<HHIIHH", content)
    if kind == _EXTENSIBLE and len(content) >= 26:
        (kind,) = struct.unpack_from("<H", content, 24)
    known = {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64)}
    if bits not in known.get(kind, ()):
        raise RequestError(
            f"the WAV file's samples are of kind {kind} with {bits} bits, expected PCM or floats; {_CONVERT}"
        )
    if not 1 <= channels <= MAX_CHANNELS or block != channels * bits // 8:
        raise RequestError(f"the WAV file states {channels} channels in blocks of {block} bytes")
    if not MIN_RATE <= rate <= MAX_RATE:
        raise RequestError(f"the WAV file has {rate} samples a second, expected {MIN_RATE} to {MAX_RATE}")
    return _Format(kind, channels, rate, bits)


def _samples(content: memoryview, form: _Format, most_seconds: float) -> Samples:
    width = form.bits // 8
    if not content or len(content) % (width * form.channels):
        raise RequestError("the WAV file ends within a sample" if content else "the WAV file holds no samples")
    seconds = len(content) / (width * form.channels * form.rate)
    if seconds > most_seconds:
        raise too_long(seconds, most_seconds)
    found = _scaled(content, form).reshape(-1, form.channels)
    mono = found[:, 0] if form.channels == 1 else found.mean(axis=1)
    if form.kind == _FLOAT and not np.isfinite(mono).all():
        raise RequestError("the WAV file holds samples that are no numbers")
    return np.clip(mono, -1, 1).astype(np.float32)


def too_long(seconds: float, most: float) -> RequestError:
    """Return the refusal of audio beyond one pass: cut off, its end would be missing from the answer unseen."""
    cut = f"ffmpeg -i IN -ac 1 -ar 16000 -f segment -segment_time {max(most - 1, 1):g} OUT%03d.wav"
    message = f"the audio has {seconds:.1f} seconds, expected at most {most:g}; send parts, best cut at pauses: {cut}"
    return RequestError(message, status=413)


def _scaled(content: memoryview, form: _Format) -> NDArray[Any]:
    if form.kind == _FLOAT:
        return np.frombuffer(content, f"<f{form.bits // 8}")
    if form.bits == 8:
        return (np.frombuffer(content, "u1").astype(np.float32) - 128) / 128
    if form.bits == 24:
        wide = np.zeros((len(content) // 3, 4), "u1")
        wide[:, 1:] = np.frombuffer(content, "u1").reshape(-1, 3)
        return wide.view("<i4")[:, 0] / 2.0**31
    return np.frombuffer(content, f"<i{form.bits // 8}") / 2.0 ** (form.bits - 1)


def resample(samples: Samples, rate: int, wanted: int) -> Samples:
    """Return samples at another rate: a polyphase filter with a Kaiser window, as scipy.signal.resample_poly's."""
    if rate == wanted:
        return samples
    common = math.gcd(rate, wanted)
    up, down = wanted // common, rate // common
    count, slower = -(-len(samples) * up // down), max(up, down)
    half = _HALF * slower
    side = half // up + 1
    padded = np.concatenate([np.zeros(side), samples.astype(np.float64), np.zeros(side + down + 1)])
    width = 2 * half // up + 1
    if slower > _WHOLE or count * width < _LOOK_UPS * min(up, count) + 4 * half:
        return _resample_by_table(padded, up, down, count)
    taps = _taps(np.arange(-half, half + 1), slower)
    taps *= up / taps.sum()
    found = np.zeros(count)
    for first in range(min(up, count)):
        # output n reads input k with the tap n * down - k * up + half; of outputs `up` apart the taps are the same
        lowest = -((half - first * down) // up)
        own = taps[first * down - lowest * up + half :: -up][:width]
        begin = lowest + side
        windows = np.lib.stride_tricks.sliding_window_view(padded[begin:], len(own))[::down]
        outputs = found[first::up]
        outputs[:] = windows[: len(outputs)] @ own
    return found.astype(np.float32)


def _taps(places: NDArray[Any], slower: int) -> NDArray[np.float64]:
    """Return the filter at places in steps of the faster grid, not scaled; `slower` is a period of the slower rate."""
    window = np.i0(_BETA * np.sqrt(1 - (places / (_HALF * slower)) ** 2)) / np.i0(_BETA)
    return np.asarray(np.sinc(places / slower) * window)


@lru_cache(maxsize=1)
def _table() -> NDArray[np.float64]:
    """Return the filter at `_TABLE` places of a period of the slower rate, with one tap of zero behind its end."""
    places = np.arange(-_HALF * _TABLE, _HALF * _TABLE + 1)
    return np.append(_taps(places, _TABLE), 0.0)


def _resample_by_table(padded: NDArray[np.float64], up: int, down: int, count: int) -> Samples:
    """Resample with taps that are looked up: between those of the table they lie on straight lines, near float32.

    Two rates without a common divisor have millions of taps, and thousands of phases: a short file needs few of them.
    """
    taps, slower = _table(), max(up, down)
    half = _HALF * slower
    width, side = 2 * half // up + 1, half // up + 1
    scale = up * _TABLE / (slower * taps.sum())
    found = np.zeros(count, np.float32)
    step = max(1, _BLOCK // width)
    for first in range(0, count, step):
        outputs = np.arange(first, min(first + step, count))
        lowest = -((half - outputs * down) // up)
        # how far the first read of each output lies from the end of the filter, in places of the table
        begin = (outputs * down - lowest * up + half) * (_TABLE / slower)
        places = np.maximum(begin[:, None] - np.arange(width) * (up * _TABLE / slower), 0)
        below = places.astype(np.intp)
        left = taps[below]
        own = left + (places - below) * (taps[below + 1] - left)
        reads = padded[(lowest + side)[:, None] + np.arange(width)]
        found[first : first + step] = np.einsum("ij,ij->i", reads, own) * scale
    return found


def log_mel(samples: Samples, audio: Audio) -> NDArray[np.float32]:
    """Return the features [mels, frames] of samples at the model's rate.

    Less than one pass is filled up with silence; more keeps its length, and has frames for all of it.
    """
    side = audio.window // 2
    wave = np.zeros(max(len(samples), audio.samples))
    wave[: len(samples)] = samples
    padded = np.pad(wave, side, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, audio.window)[:: audio.hop][: len(wave) // audio.hop]
    shape = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(audio.window) / audio.window)
    filters = mel_filters(audio.rate, audio.window, audio.mels)
    found = np.empty((len(frames), audio.mels))
    for start in range(0, len(frames), audio.frames):  # one pass at a time: all windows at once take 3 kB a frame
        power = np.abs(np.fft.rfft(frames[start : start + audio.frames] * shape, axis=1)) ** 2
        found[start : start + audio.frames] = np.log10(np.maximum(power @ filters, 1e-10))
    found = np.maximum(found, found.max() - 8.0)
    return ((found.T + 4.0) / 4.0).astype(np.float32)


@lru_cache(maxsize=4)
def mel_filters(rate: int, window: int, mels: int) -> NDArray[np.float64]:
    """Return triangles [window // 2 + 1, mels] of Slaney's mel scale from 0 to half the rate, each of area 1."""
    edges = _hertz(np.linspace(_mel(0.0), _mel(rate / 2), mels + 2))
    bins = np.linspace(0, rate // 2, window // 2 + 1)
    slopes = edges[None] - bins[:, None]
    widths = np.diff(edges)
    found = np.maximum(0, np.minimum(-slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]))
    scaled: NDArray[np.float64] = found * (2.0 / (edges[2:] - edges[:-2]))
    return scaled


_LINEAR, _STEP = 1000.0, 27.0 / np.log(6.4)  # linear up to 1 kHz, then 27 steps for a factor of 6.4


def _mel(hertz: float) -> float:
    return 3 * hertz / 200 if hertz < _LINEAR else float(15 + np.log(hertz / _LINEAR) * _STEP)


def _hertz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mels < 15, 200 * mels / 3, _LINEAR * np.exp((mels - 15) / _STEP))

# SPDX-License-Identifier: Apache-2.0
"""Audio for reference prompts, made here from fixed numbers: tones, a sweep, syllables of formants, and noise.

It is no speech, and a trained model makes little sense of it; what it hears is compared with what the source hears.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

_FULL = 32767


def reference(rate: int) -> Iterator[tuple[str, Any]]:
    """Yield names and samples as float32 in [-1, 1], exactly those of 16-bit PCM."""
    seconds = np.arange(int(2.0 * rate)) / rate
    for name, wave in (
        ("tones", np.sin(2 * np.pi * 220 * seconds) + 0.5 * np.sin(2 * np.pi * 1760 * seconds)),
        ("sweep", np.sin(2 * np.pi * (80 * seconds + 900 * seconds**2))),
        ("syllables", _syllables(seconds)),
        ("noise", _noise(len(seconds))),
        ("silence", np.zeros(rate // 4)),
    ):
        loudest = float(np.abs(wave).max()) or 1.0
        yield name, (np.round(wave / loudest * 0.8 * _FULL) / (_FULL + 1)).astype(np.float32)


def _syllables(seconds: Any) -> Any:
    """Return a voice of 120 Hz through formants that change four times a second."""
    pitch = 120 + 15 * np.sin(2 * np.pi * 1.5 * seconds)
    phase = np.cumsum(2 * np.pi * pitch) * (seconds[1] - seconds[0])
    vowels = np.array([(730, 1090), (270, 2290), (300, 870), (530, 1840), (660, 1720), (440, 1020)], float)
    place = (seconds * 4).astype(int) % len(vowels)
    found = np.zeros_like(seconds)
    for harmonic in range(1, 30):
        near = np.exp(-(((harmonic * pitch)[:, None] - vowels[place]) ** 2) / (2 * 120.0**2)).sum(axis=1)
        found += near * np.sin(harmonic * phase)
    return found * np.abs(np.sin(np.pi * 4 * seconds)) ** 0.5


def _noise(count: int) -> Any:
    """Return the same noise on every machine: the high bits of a linear congruence."""
    state, found = 20260730, np.zeros(count)
    for place in range(count):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        found[place] = (state >> 8) / (1 << 23) - 1
    return found


def wav(samples: Any, rate: int) -> bytes:
    """Return a WAV file of 16-bit PCM."""
    data = np.round(samples * (_FULL + 1)).astype("<i2").tobytes()
    head = struct.pack("<HHIIHH", 1, 1, rate, 2 * rate, 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + len(data))
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + head
        + (b"data" + struct.pack("<I", len(data)) + data)
    )

# SPDX-License-Identifier: Apache-2.0
"""Sound to what a model hears: waves of zero mean and unit variance, or spectrograms of Kaldi's mel scale.

The arithmetic is that of transformers' `Wav2Vec2FeatureExtractor` and of `ASTFeatureExtractor` on numpy (5.23). WAV
files at another rate are resampled as for speech.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from packager.server.errors import RequestError
from packager.server.generation.audio import estimate_filter_memory, read_wav, resample
from packager.server.pipeline.parts import Audio, Mels
from packager.server.protocol.tensors import Array

MAX_SECONDS = 600.0
_WINDOW, _HOP, _FOURIER = 400, 160, 512  # samples of a frame, between frames, of its transform
_LEAST = 1.192092955078125e-07
_LOWEST = 20.0  # Hz


class Sounds:
    """Makes the inputs of sound; several threads may use it."""

    def __init__(self, about: Audio) -> None:
        self._about = about

    def read(self, data: bytes, subject: str, hold: Callable[[int], None]) -> Array:
        """Return the features of a WAV file. Raises RequestError."""
        hold(16 * len(data))
        try:
            samples, rate = read_wav(data, MAX_SECONDS)
        except RequestError as error:
            raise RequestError(f"{subject}: {error.message}", status=error.status) from None
        hold(16 * -(-len(samples) * self._about.rate // rate) + estimate_filter_memory(rate, self._about.rate))
        samples = resample(samples, rate, self._about.rate)
        if self._about.mels is not None and len(samples) < _WINDOW:
            raise RequestError(f"{subject}: expected at least {_WINDOW} samples, got {len(samples)}")
        return self.features(samples)

    def features(self, samples: Array) -> Array:
        """Return the features of samples at the model's rate: a wave, or frames by mels."""
        if self._about.mels is not None:
            return compute_log_mels(samples, self._about.rate, self._about.mels)
        if self._about.normalize:
            samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
        return samples.astype(np.float32)

    def feeds(self, rows: Sequence[Array]) -> dict[str, Array]:
        """Return the inputs of the graph. Raises RequestError for several lengths where the graph takes no mask."""
        about = self._about
        lengths = [len(row) for row in rows]
        if about.mask is None:
            if len(set(lengths)) > 1:
                raise RequestError(f"expected sounds of one length, got {min(lengths)} and {max(lengths)} samples")
            return {about.input: np.stack(rows)}
        filled = np.zeros((len(rows), max(lengths)), np.float32)
        mask = np.zeros(filled.shape, np.int64)
        for index, row in enumerate(rows):
            filled[index, : len(row)] = row
            mask[index, : len(row)] = 1
        return {about.input: filled, about.mask: mask}


def compute_log_mels(samples: Array, rate: int, about: Mels) -> Array:
    """Return frames by mels of samples, cut and filled up with zeros to the frames of the model, then normalised."""
    wave = np.asarray(samples[: _WINDOW + _HOP * about.frames], np.float64)
    features = np.zeros((about.frames, about.bands), np.float32)
    count = min(1 + (len(wave) - _WINDOW) // _HOP, about.frames) if len(wave) >= _WINDOW else 0
    if count > 0:
        frames = np.lib.stride_tricks.sliding_window_view(wave, _WINDOW)[::_HOP][:count]
        frames = frames - frames.mean(1, keepdims=True)
        emphasised = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], 1)
        waves = np.fft.rfft(emphasised * np.hanning(_WINDOW), _FOURIER).astype(np.complex64)
        power = np.abs(waves.astype(np.complex128)) ** 2
        features[:count] = np.log(np.maximum(power @ _filters(rate, about.bands), _LEAST))
    return np.asarray((features - about.mean) / (about.deviation * 2), np.float32)


@lru_cache(maxsize=4)
def _filters(rate: int, bands: int) -> Array:
    """Return triangles [257, bands] that are straight on Kaldi's mel scale from 20 Hz to half the rate."""
    edges = np.linspace(_mel(np.array(_LOWEST)), _mel(np.array(float(rate // 2))), bands + 2)
    bins = _mel(rate / _FOURIER * np.arange(_FOURIER // 2 + 1))
    slopes = edges[None] - bins[:, None]
    widths = np.diff(edges)
    return np.maximum(0, np.minimum(-slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]))


def _mel(hertz: Array) -> Array:
    return np.asarray(1127.0 * np.log(1.0 + hertz / 700.0))

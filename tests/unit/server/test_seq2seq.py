# SPDX-License-Identifier: Apache-2.0
"""Rules, beams, features and WAV files against transformers and SciPy, and what hostile uploads meet."""

from __future__ import annotations

import itertools
import struct
import tracemalloc
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest

from packager.server.errors import RequestError
from packager.server.generation import audio, beams
from packager.server.generation.decoding import Audio, Decoding, Rules
from packager.server.generation.rules import allowed
from packager.server.generation.settings import Generation
from tests.support import language_models
from tests.support.pairs import TorchPair

HEARS = Audio(16000, 80, 400, 160, 30, {}, {}, None)
TONE = (np.sin(np.arange(8000) * 0.2) * 20000).astype("<i2")


def wav(data: bytes, *, kind: int = 1, channels: int = 1, rate: int = 16000, bits: int = 16, **more: Any) -> bytes:
    block = channels * bits // 8
    head = struct.pack("<HHIIHH", kind, channels, rate, rate * block % (1 << 32), block, bits) + more.get(
        "extension", b""
    )
    size = more.get("size", len(data))
    chunks = b"LIST" + struct.pack("<I", 3) + b"abc\0" + b"fmt " + struct.pack("<I", len(head)) + head
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks + b"data" + struct.pack("<I", size) + data


@cache
def model(kind: str) -> Any:
    import transformers

    folder = language_models.write(Path(mkdtemp()), kind, generation={"forced_eos_token_id": None})
    opened = {"t5": transformers.T5ForConditionalGeneration, "bart": transformers.BartForConditionalGeneration}[kind]
    return opened.from_pretrained(folder, attn_implementation="eager").eval()


def settings(**members: Any) -> Decoding:
    rules = {name: members.pop(name) for name in tuple(members) if name in Rules.__dataclass_fields__}
    value = {"start": (1,), "source": 256, "longest": 256, "beams": 3, "length_penalty": 1.0, "early_stopping": False}
    return Decoding(**{**value, **members}, cross_bytes=1, rules=Rules(**rules))


@pytest.mark.parametrize("kind", ["t5", "bart"])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"length_penalty": 2.0, "early_stopping": True}, {"length_penalty": 2.0, "early_stopping": True}),
        ({"length_penalty": 0.5, "early_stopping": "never"}, {"length_penalty": 0.5, "early_stopping": "never"}),
        ({"no_repeat": 2, "min_length": 6}, {"no_repeat_ngram_size": 2, "min_length": 6}),
        ({"forced_bos": 7, "forced_eos": 0}, {"forced_bos_token_id": 7, "forced_eos_token_id": 0}),
        ({"banned": ((129,), (4, 5)), "suppress": (76,)}, {"bad_words_ids": [[129], [4, 5]], "suppress_tokens": [76]}),
        ({"suppress": (76, 129), "renormalise": True}, {"suppress_tokens": [76, 129], "renormalize_logits": True}),
        ({"begin_suppress": (129, 223), "beams": 5}, {"begin_suppress_tokens": [129, 223], "num_beams": 5}),
    ],
)
def test_beams_and_greedy_choices_are_those_of_transformers(kind: str, ours: Any, theirs: Any) -> None:
    import torch

    opened, decoding, ends = model(kind), settings(**ours), (0, 33, 129, 254)
    random, pair = np.random.default_rng(5), TorchPair(opened)
    for length in (3, 12):
        ids = random.integers(2, 512, (1, length))
        asked = {"num_beams": decoding.beams, "do_sample": False, "max_new_tokens": 10, "eos_token_id": list(ends)}
        asked |= {"pad_token_id": 1, "decoder_start_token_id": 1, "attention_mask": torch.ones(1, length).long()}
        whole = opened.generate(torch.from_numpy(ids), **{**asked, **theirs})[0].tolist()
        made = beams.search(
            pair,
            pair.read_texts(ids),
            decoding,
            (1,),
            ends,
            11,
            lambda: False,
            beams=decoding.beams,  # type: ignore[arg-type]
        )
        assert made is not None and [1, *made.tokens] == whole
        whole = opened.generate(torch.from_numpy(ids), **{**asked, **theirs, "num_beams": 1})[0].tolist()
        kept, sequence = pair.read_texts(ids), [1]
        while len(sequence) < 11 and sequence[-1] not in ends:
            logits = pair.step([sequence[-1:]], kept)[0, -1]
            sequence.append(int(allowed(logits, decoding.rules, ends, sequence, 1, 11).argmax()))
        assert sequence == whole


def test_a_search_that_is_cancelled_has_no_answer() -> None:
    pair = TorchPair(model("t5"))
    read = pair.read_texts(np.array([[5, 6, 7]]))
    assert beams.search(pair, read, settings(), (1,), (0,), 9, lambda: True, beams=2) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("mels", [80, 128])
def test_features_are_those_of_whisper(mels: int) -> None:
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(feature_size=mels)
    assert np.abs(audio.mel_filters(16000, 400, mels) - extractor.mel_filters).max() < 1e-15
    random = np.random.default_rng(1)
    for samples in (random.normal(size=30000) * 0.1, np.sin(np.arange(20000) ** 1.5 / 900) * 0.5, np.zeros(99)):
        samples = samples.astype(np.float32)
        expected = extractor(samples, sampling_rate=16000, return_tensors="np").input_features[0]
        found = audio.log_mel(samples, Audio(16000, mels, 400, 160, 30, {}, {}, None))
        assert found.shape == expected.shape and np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000, 5507, 47951, 191_999])
def test_other_rates_are_resampled_as_scipy_does(rate: int) -> None:
    signal = pytest.importorskip("scipy.signal")
    samples = np.random.default_rng(2).normal(size=3001).astype(np.float32)
    divisor = np.gcd(rate, 16000)
    expected = signal.resample_poly(samples.astype(float), 16000 // divisor, rate // divisor)
    found = audio.resample(samples, rate, 16000)
    assert found.shape == expected.shape and np.abs(found - expected).max() < 1e-6


def test_a_short_file_at_a_strange_rate_waits_for_no_filter() -> None:
    """191,999 and 16,000 have no common divisor: the whole filter has four million taps."""
    audio.resample(np.zeros(1, np.float32), 4001, 16000)
    tracemalloc.start()
    found = [audio.resample(np.ones(10, np.float32), 191_999, 16000) for _ in range(20)]
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found[0]) == 1 and most < 20 << 20


@pytest.mark.parametrize(
    ("kind", "bits", "data"),
    [
        (1, 8, (TONE // 256 + 128).astype("u1").tobytes()),
        (1, 16, TONE.tobytes()),
        (1, 24, (TONE.astype("<i4") << 8).view("u1").reshape(-1, 4)[:, :3].tobytes()),
        (1, 32, (TONE.astype("<i4") << 16).tobytes()),
        (3, 32, (TONE / 32768).astype("<f4").tobytes()),
        (3, 64, (TONE / 32768).tobytes()),
    ],
)
def test_wav_files_of_every_kind_hold_the_same(kind: int, bits: int, data: bytes) -> None:
    found, rate = audio.read_wav(wav(data, kind=kind, bits=bits), 30)
    assert rate == 16000 and found.dtype == np.float32
    assert np.abs(found - TONE / 32768).max() <= (1 / 128 if bits == 8 else 1e-6)


def test_channels_are_averaged_and_extensible_files_read() -> None:
    both = np.stack([TONE, -TONE], axis=1).astype("<i2")
    found, _ = audio.read_wav(wav(both.tobytes(), channels=2), 30)
    assert not found.any()
    extension = struct.pack("<HHIH", 22, 16, 4, 1) + bytes(14)
    found, _ = audio.read_wav(wav(TONE.tobytes(), kind=0xFFFE, extension=extension), 30)
    assert np.abs(found - TONE / 32768).max() < 1e-6


@pytest.mark.parametrize(
    ("data", "words", "status"),
    [
        (b"", "expected a WAV file, got something else", 400),
        (b"fLaC\0\0\0\x22", "got FLAC; convert it before: ffmpeg", 400),
        (b"ID3\4\0\0", "got MP3", 400),
        (b"\0\0\0\x18ftypM4A ", "got MP4", 400),
        (wav(TONE.tobytes(), size=1 << 31), "ends before its samples do", 400),
        (wav(TONE.tobytes())[:-100], "ends before its samples do", 400),
        (wav(TONE.tobytes() + b"x"), "ends within a sample", 400),
        (wav(b""), "holds no samples", 400),
        (wav(TONE.tobytes())[:60], "ends before its samples do", 400),
        (b"RIFF\4\0\0\0WAVE", "holds no samples", 400),
        (b"RIFF\4\0\0\0WAVEdata\2\0\0\0ab", "says nothing of its samples", 400),
        (b"RIFF\4\0\0\0WAVE" + b"JUNK\0\0\0\0" * 300, "holds no samples", 400),
        (wav(TONE.tobytes(), kind=0x55), "samples are of kind 85", 400),
        (wav(TONE.tobytes(), bits=12), "with 12 bits", 400),
        (wav(TONE.tobytes(), channels=0), "0 channels", 400),
        (wav(TONE.tobytes(), channels=200), "200 channels", 400),
        (wav(TONE.tobytes(), rate=0), "0 samples a second", 400),
        (wav(TONE.tobytes(), rate=1 << 30), "samples a second", 400),
        (wav(bytes(2 * 16000 * 31)), r"has 31.0 seconds, expected at most 30; send parts, .* -segment_time 29 ", 413),
        (wav(bytes(1 << 20), rate=4000), "the audio has 131.1 seconds", 413),
        (wav(np.full(99, np.nan, "<f4").tobytes(), kind=3, bits=32), "no numbers", 400),
    ],
)
def test_what_is_no_sound_wav_file_is_refused(data: bytes, words: str, status: int) -> None:
    with pytest.raises(RequestError, match=words) as refused:
        audio.read_wav(data, 30)
    assert refused.value.status == status


def test_damaged_wav_files_are_read_or_refused_and_take_little_memory() -> None:
    sound, random = wav(TONE.tobytes()), np.random.default_rng(3)
    tracemalloc.start()
    for _ in range(300):
        damaged = bytearray(sound[: random.integers(1, len(sound))])
        for place in random.integers(0, min(len(damaged), 90), 4):
            damaged[place] = random.integers(0, 256)
        try:
            samples, _ = audio.read_wav(damaged, 30)
            assert np.isfinite(samples).all() and np.abs(samples).max(initial=0) <= 1
        except RequestError:
            pass
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


CONTRACT: dict[str, Any] = {
    "task": "automatic-speech-recognition",
    "architecture": "WhisperForConditionalGeneration",
    "vocabulary": 512,
    "context": 64,
    "special": {"bos": 0, "eos": [0], "pad": 1},
    "cache": {"layers": 1, "bytes": 256},
    "tokenizer": f"sha256:{'0' * 64}",
    "template": None,
    "sampling": {},
    "decoding": settings(suppress=(5, 6), banned=((1, 2),)).to_json() | {"start": [1], "beams": 1},
    "audio": Audio(16000, 80, 400, 160, 2, {"en": 10, "de": 11}, {"transcribe": 12}, 13).to_json(),
}


def test_a_contract_is_read_as_it_was_written() -> None:
    import json

    value = json.loads(json.dumps(CONTRACT))
    assert Generation.from_json(value).to_json() == value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("task",), "text-generation"),
        (("task",), "image-to-text"),
        (("context",), 4),
        (("decoding", "start"), []),
        (("decoding", "start"), [512]),
        (("decoding", "beams"), 0),
        (("decoding", "beams"), 1 << 20),
        (("decoding", "early_stopping"), "soon"),
        (("decoding", "length_penalty"), "1"),
        (("decoding", "rules", "suppress"), [-1]),
        (("decoding", "rules", "banned"), [[]]),
        (("decoding", "rules", "no_repeat"), True),
        (("decoding", "more"), 1),
        (("decoding", "rules", "sorted"), True),
        (("audio", "rate"), 1),
        (("audio", "hop"), 401),
        (("audio", "seconds"), 10**9),
        (("audio", "languages"), {"<|en|>": 1}),
        (("audio", "tasks"), {"sing": 1}),
    ],
)
def test_a_contract_that_lies_is_refused(path: tuple[str, ...], value: Any) -> None:
    import copy

    document = copy.deepcopy(CONTRACT)
    place = document
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=r"expected|unknown|members|no list|no room"):
        Generation.from_json(document)


def test_rules_repeat_no_sequence_of_any_length() -> None:
    sequence = [1, 2, 3, 1, 2]
    for size, banned in ((1, {1, 2, 3}), (2, {3}), (3, {3}), (4, set()), (9, set())):
        scores = allowed(np.zeros(8), Rules(no_repeat=size), (), sequence, 1, 99)
        assert {int(token) for token in np.flatnonzero(np.isinf(scores))} == banned
    assert list(itertools.chain(allowed(np.zeros(3), Rules(), (), [1], 1, 9))) == [0, 0, 0]

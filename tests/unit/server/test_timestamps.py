# SPDX-License-Identifier: Apache-2.0
"""Times in answers of a speech model against transformers' own rules and cuts, and subtitles as players read them."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from packager.server.errors import RequestError
from packager.server.generation import audio
from packager.server.generation.decoding import Audio, Decoding, Rules
from packager.server.generation.seq2seq import Seq2Seq
from packager.server.generation.settings import SPEECH, Generation
from packager.server.generation.timestamps import Segment, Timestamps
from packager.server.http.subtitles import write_srt, write_vtt

END, NONE, VOCABULARY = 20, 30, 31 + 1501
ABOUT = Audio(16000, 80, 400, 160, 30, {}, {}, NONE)


def times() -> Timestamps:
    found = Timestamps.of(ABOUT, VOCABULARY)
    assert found is not None and found.first == 31 and found.step == 0.02
    return found


def drawn(random: np.random.Generator, length: int) -> list[int]:
    """Return an answer as the rules allow it: times in pairs, never back."""
    now, answer = 31, list[int]()
    while len(answer) < length:
        now += int(random.integers(0, 30))
        answer += [now, *random.integers(0, END, random.integers(1, 4)).tolist()]
        now += int(random.integers(1, 60))
        answer.append(min(now, VOCABULARY - 1))
    return answer[:length]


def test_the_next_token_is_one_that_transformers_allows() -> None:
    import torch
    from transformers import GenerationConfig
    from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor

    config = GenerationConfig(eos_token_id=END, no_timestamps_token_id=NONE, max_initial_timestamp_index=50)
    theirs, random = WhisperTimeStampLogitsProcessor(config, begin_index=2), np.random.default_rng(4)
    for length in [*range(12)] * 20:
        answer = drawn(random, length)
        scores = random.normal(0, 6, VOCABULARY).astype(np.float32)
        scores[random.integers(0, END, 5)] = -np.inf
        expected = theirs(torch.tensor([[1, 2, *answer]]), torch.from_numpy(scores)[None].clone())[0].numpy()
        found = times().allowed(scores, answer, (END,))
        assert (found == expected).all(), answer


def test_an_answer_is_cut_where_transformers_cuts_it() -> None:
    import torch
    from transformers.models.whisper.generation_whisper import WhisperGenerationMixin

    random = np.random.default_rng(5)
    for length in [*range(1, 40)] * 5:
        answer, frames = drawn(random, length), int(random.integers(3000, 3001) - random.integers(0, 2) * 700)
        segments, count = WhisperGenerationMixin._retrieve_segment(
            seek_sequence=torch.tensor(answer),
            seek_outputs=[{}],
            time_offset=torch.tensor([0.0], dtype=torch.float64),
            timestamp_begin=31,
            seek_num_frames=torch.tensor([frames]),
            time_precision=0.02,
            time_precision_features=0.01,
            input_stride=2,
            prev_idx=0,
            idx=0,
            return_token_timestamps=False,
            decoder_input_ids=torch.tensor([[1]]),
        )
        found, taken = times().cut(answer, frames)
        assert taken == int(count) and 0 < taken <= max(frames, 3000)
        assert len(found) == len(segments)
        for ours, theirs in zip(found, segments, strict=True):
            assert [ours.start, ours.end] == pytest.approx([float(theirs["start"]), float(theirs["end"])])
            assert list(ours.tokens) == [token for token in theirs["tokens"].tolist() if token < NONE]


def test_a_model_without_a_token_for_every_time_has_none() -> None:
    assert Timestamps.of(ABOUT, VOCABULARY - 1) is None
    assert Timestamps.of(Audio(16000, 80, 400, 160, 30, {}, {}, None), VOCABULARY) is None


def hears(vocabulary: int) -> Seq2Seq:
    decoding = Decoding((1,), 1500, 448, 1, 1.0, False, 1, Rules())
    about = Generation(
        SPEECH, "Whisper", vocabulary, 448, None, (END,), None, 1, 1, "sha256:" + "0" * 64, None, {}, decoding, ABOUT
    )
    nothing: Any = None
    return Seq2Seq(about, decoding, nothing, nothing, nothing, "none")


def wav(seconds: int, rate: int = 16000, channels: int = 1) -> bytes:
    data = bytes(2 * channels * rate * seconds)
    head = struct.pack("<HHIIHH", 1, channels, rate, 2 * channels * rate, 2 * channels, 16)
    chunks = b"fmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def test_long_audio_needs_times() -> None:
    job = hears(VOCABULARY).job_of_audio(wav(40), {})
    assert job.times == times() and job.features is not None and job.features.shape == (80, 4000)
    assert hears(VOCABULARY).job_of_audio(wav(3), {}).times is None
    assert hears(VOCABULARY).job_of_audio(wav(3), {"timestamps": True}).times == times()
    with pytest.raises(RequestError, match="expected at most 30"):
        next(hears(VOCABULARY).answer(job))  # token by token there is one pass
    with pytest.raises(RequestError, match=r"40.0 seconds, expected at most 30; send parts") as refused:
        hears(31).job_of_audio(wav(40), {})
    assert refused.value.status == 413
    with pytest.raises(RequestError, match="the model has no tokens of times"):
        hears(31).job_of_audio(wav(3), {"timestamps": True})
    with pytest.raises(RequestError, match="expected true or false"):
        hears(VOCABULARY).job_of_audio(wav(3), {"timestamps": "yes"})


def test_the_memory_of_long_audio_is_held_beforehand() -> None:
    import tracemalloc

    for data in (wav(3), wav(300), wav(90, 8000), wav(60, 48000, 2), wav(8, 191_999), wav(40, 15_999)):
        hears(VOCABULARY).job_of_audio(data, {})  # tables that stay
        tracemalloc.start()
        hears(VOCABULARY).job_of_audio(data, {})
        assert tracemalloc.get_traced_memory()[1] < audio.estimate_memory(data, ABOUT) < 70 * len(data) + (110 << 20)
        tracemalloc.stop()


def test_subtitles_are_those_of_players() -> None:
    said = [(Segment(0.0, 2.5, (1,)), " Hello <b>\n\nthere --> & you "), (Segment(3599.9996, 3725.04, (2,)), " End.")]
    assert write_srt(said) == (
        "1\n00:00:00,000 --> 00:00:02,500\nHello <b> there -> & you\n\n2\n01:00:00,000 --> 01:02:05,040\nEnd.\n\n"
    )
    assert write_vtt(said) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:02.500\nHello &lt;b&gt; there -&gt; &amp; you\n\n"
        "01:00:00.000 --> 01:02:05.040\nEnd.\n\n"
    )
    assert write_srt(()) == "" and write_vtt(()) == "WEBVTT\n\n"

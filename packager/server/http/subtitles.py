# SPDX-License-Identifier: Apache-2.0
"""Write the segments of a transcript as subtitles: SubRip (`.srt`) and WebVTT (W3C, `.vtt`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from packager.server.generation.timestamps import Segment

Segments: TypeAlias = Sequence[tuple[Segment, str]]


def write_srt(segments: Segments) -> str:
    """Return numbered cues, times with a comma."""
    cues = (
        f"{number}\n{_time(segment.start, ',')} --> {_time(segment.end, ',')}\n{_line(text)}\n\n"
        for number, (segment, text) in enumerate(segments, start=1)
    )
    return "".join(cues)


def write_vtt(segments: Segments) -> str:
    """Return cues below the line `WEBVTT`, times with a point; what WebVTT reads as markup is escaped."""
    cues = (
        f"{_time(segment.start, '.')} --> {_time(segment.end, '.')}\n{_escape(_line(text))}\n\n"
        for segment, text in segments
    )
    return "".join(("WEBVTT\n\n", *cues))


WRITERS: Mapping[str, Callable[[Segments], str]] = {"srt": write_srt, "vtt": write_vtt}


def _time(seconds: float, point: str) -> str:
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"


def _line(text: str) -> str:
    """Return the text in one line, which cannot end its cue."""
    return " ".join(text.split()).replace("-->", "->")


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

# SPDX-License-Identifier: Apache-2.0
"""Bytes and seconds as a person reads them."""

from __future__ import annotations


def format_size(count: int) -> str:
    """Write a number of bytes as a person reads it."""
    amount, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def format_duration(seconds: float) -> str:
    """Write a number of seconds as a person reads it."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"

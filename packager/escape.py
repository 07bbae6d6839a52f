# SPDX-License-Identifier: Apache-2.0
r"""Escape untrusted text for display: in a terminal, a log, HTML, Markdown, XML, JSON and YAML.

Names of tensors, paths, messages of workers and statements of unknown signers may be hostile. Characters that move the
cursor, end a line, change the direction of writing or are invisible are written as an escape (`\x1b`), so that they can
be read and have no effect. All output of this program goes through this module.

Source of the characters: Unicode 15.1, categories Cc, Cs, Zl, Zp, and those of Cf that affect other characters.
"""

from __future__ import annotations

import json
import re
from typing import Any

UNFIT = (
    "\x00-\x1f\x7f-\x9f"  # control characters, with the introducers of escape sequences in seven and eight bits
    "\xad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff"  # direction
    "\u2028\u2029\ud800-\udfff\ufffe\uffff"  # ends of lines; no characters at all
)
"""The members of a character class of regular expressions."""
_UNFIT = re.compile(f"[{UNFIT}]")
_UNFIT_BUT_NEWLINES = re.compile(f"(?![\n\t])[{UNFIT}]")


def line(text: object) -> str:
    """Return `text` as one line of visible characters and spaces."""
    return _UNFIT.sub(_escape, str(text))


def block(text: str) -> str:
    """Return text of several lines: of all control characters, only newlines and tabs stay."""
    return _UNFIT_BUT_NEWLINES.sub(_escape, text)


def html(text: object) -> str:
    """Return `text` for an element or a quoted attribute of HTML or XML."""
    from html import escape  # its table of entities is large, and a terminal needs none

    return escape(line(text))


def json_text(value: Any, **form: Any) -> str:
    """Return JSON of `value` that is safe to display; also a scalar of YAML, where `value` is text.

    `form` is passed to `json.dumps`. Raises what that raises.
    """
    return json_document(json.dumps(value, ensure_ascii=False, **form))


def json_document(text: str) -> str:
    """Return the same JSON, safe to display."""
    return _UNFIT_BUT_NEWLINES.sub(_json_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    known = {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r"}.get(code)
    return known or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


def _json_escape(found: re.Match[str]) -> str:
    return json.dumps(found[0])[1:-1]

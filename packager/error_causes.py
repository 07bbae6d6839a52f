# SPDX-License-Identifier: Apache-2.0
"""Find the line of a library's error that states the cause.

Libraries wrap errors: TensorFlow begins with "Graph execution error:" and the node in the graph, Keras with the layer
that was called, converters with a whole traceback. The text of the exception itself comes after, or last.
"""

from __future__ import annotations

import re

_LONGEST = 300
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_WRAPPING = re.compile(
    r"Graph execution error:?$|Exception encountered when calling |Detected at node |<stack traces unavailable>|"
    r"Arguments received by |Call arguments received by |\[\[\{\{node|\[\[Func/|Original stack trace for |"
    r"Traceback \(most recent call last\)|File \"|[~^]+$|\d+ root error\(s\) found|During handling of "
)
_TRACE = re.compile(r"Traceback \(most recent call last\)|Detected at node .*\(most recent call last\)", re.DOTALL)
_OWN = re.compile(r"^ *(?:[\w.]+\.)?[A-Z]\w*(?:Error|Exception): (.+)$", re.MULTILINE)
_RUNTIME = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from \S+ failed: ?|Exception during initialization: ?"
)
_STATUS = re.compile(r"running (\w+) node\..*?Status Message: (.*)", re.DOTALL)  # the node, and what it said
_TAIL = re.compile(r"\s*(\[\[\{\{node .*|\[Op:[^\]]*\].*|Full object config: .*)$")


def find_cause(error: BaseException) -> str:
    """Return the class of an error and the line of its text that names the cause, as one line."""
    return f"{type(error).__name__}: {find_cause_line(str(error))}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its class where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def find_cause_line(text: str) -> str:
    """Return the line of a message that names the cause; a line that only introduces the next one is joined with it."""
    plain = _RUNTIME.sub("", _ANSI.sub("", text))
    if status := _STATUS.search(plain):
        plain = f"{status[1]}: {status[2]}"
    rows = [row for row in plain.splitlines() if row.strip() and not _WRAPPING.match(row.strip())]
    if plain.startswith("in user code:") and (own := list(_OWN.finditer(plain))):  # its trace is indented to its end
        return find_cause_line(plain[own[-1].start(1) :])
    if _TRACE.search(plain):  # what is indented belongs to the frames of the trace
        rows = [row for row in rows if not row[0].isspace()][-1:] or rows[-1:]
    found = [_TAIL.sub("", row.strip()) for row in rows]
    found = [row for row in found if row]
    if not found:
        return "no message"
    return shorten(f"{found[0]} {found[1]}" if found[0].endswith(":") and len(found) > 1 else found[0])


def shorten(text: str, longest: int = _LONGEST) -> str:
    """Return a text of limited length. Its end stays whole: a cause comes last, after positions and names."""
    head = longest // 4
    return text if len(text) <= longest else f"{text[:head]} … {text[head - longest :]}"

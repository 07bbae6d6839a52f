# SPDX-License-Identifier: Apache-2.0
"""A conformance result as JUnit XML: one suite per cell, one case per law, for what CI systems show."""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

from packager import escape
from packager.canonical import JSON


def render(result: JSON) -> str:
    """Return the document. A cell without a single check is one case of that name, so that no skip is invisible."""
    suites = "".join(_suite(cell) for cell in result["cells"])
    name = _quoted(f"{result['bundle']['name']} {result['bundle']['version']}")
    return f'<?xml version="1.0" encoding="utf-8"?>\n<testsuites name={name}>\n{suites}</testsuites>\n'


def _suite(cell: JSON) -> str:
    checks = cell["checks"] or [
        {"name": "cell", "level": 0, "outcome": cell["outcome"], "reason": cell["reason"], "seconds": 0}
    ]
    counts = {word: sum(check["outcome"] == word for check in checks) for word in ("fail", "skip", "known")}
    body = "".join(_case(cell, check) for check in checks)
    return (
        f'<testsuite name={_quoted(cell["cell"])} tests="{len(checks)}" failures="{counts["fail"]}" '
        f'skipped="{counts["skip"]}" time="{cell["measures"].get("seconds", 0)}">\n{body}</testsuite>\n'
    )


def _case(cell: JSON, check: JSON) -> str:
    start = (
        f"<testcase classname={_quoted(cell['runtime'] + '.L' + str(check['level']))} "
        f'name={_quoted(check["name"])} time="{check["seconds"]}"'
    )
    element = {"fail": "failure", "skip": "skipped", "known": "skipped"}.get(check["outcome"])
    return (
        f"{start}/>\n" if element is None else f"{start}><{element} message={_quoted(check['reason'])}/></testcase>\n"
    )


def _quoted(text: object) -> str:
    """Return an attribute value."""
    return quoteattr(escape.line(text))

# SPDX-License-Identifier: Apache-2.0
"""What refusals propose, shown so that it can be pasted into the recipe, or written there (`build --fix`)."""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from packager.api import recipes
from packager.cli.console import Console
from packager.errors import PackagerError

if TYPE_CHECKING:
    from packager.api import Finding
    from packager.api.recipes import Change

_ROUNDS = 12  # builds of one `--fix`; a recipe has seldom more than three things to mend
_DAYS = 90  # that a waiver is proposed for


def run_with_fixes(
    path: Path, console: Console, run: Callable[[], tuple[int, Sequence[Finding]]], *, fix: bool = False
) -> int:
    """Run a verb on the recipe at `path`; show what its refusal proposes, or write that and run again.

    `run` returns the exit code with the findings that decided it.
    """
    seen: set[str] = set()
    for last in (*([False] * _ROUNDS if fix else []), True):
        failure: PackagerError | None = None
        try:
            code, findings = run()
            proposed: Sequence[Change] = [edit for finding in findings for edit in finding.edits]
        except PackagerError as error:
            failure, code, findings, proposed = error, error.code, (), error.edits
        text = _text(path)
        if not last and _write(path, text, proposed, seen, console):
            continue
        rows = list(_rows(path, text, proposed))
        if failure is not None:
            console.fail(failure, rows)
        else:
            for row in rows:
                console.message(row)
        return code
    raise AssertionError("the last round returns")


def recipe_of(args: argparse.Namespace) -> Path:
    """Return the path of the recipe that a verb was given."""
    path: Path = args.recipe
    return path / "bundle.yaml" if path.is_dir() else path


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _write(path: Path, text: str, proposed: Sequence[Change], seen: set[str], console: Console) -> bool:
    """Write what is no consent into the recipe and say so; False where there is nothing that was not tried."""
    from packager.files import write_atomically

    wanted = [change for change in proposed if not (isinstance(change, recipes.Edit) and change.consents)]
    try:
        changed = recipes.apply_edits(text, wanted)
    except ValueError:
        return False
    if changed in (text, *seen):
        return False
    seen.add(text)
    for line, block in recipes.show_edits(text, wanted) if not _is_raw(wanted) else ():
        at = f"line {line}" if line else "its end"
        console.message(f"fixed {path.name} at {at}: {' '.join(block.split()) or 'removed'}")
    for change in wanted:
        if not isinstance(change, recipes.Edit):
            console.message(f"fixed {path.name} at line {change.line}: `{change.old}` is `{change.new}`")
    write_atomically(path, changed.encode())
    return True


def _is_raw(proposed: Sequence[Change]) -> bool:
    return any(not isinstance(change, recipes.Edit) for change in proposed)


def _rows(path: Path, text: str, proposed: Sequence[Change]) -> Iterator[str]:
    """Yield what to paste: whole blocks, so that no key is there twice."""
    if not proposed or _is_raw(proposed):  # a line and a word are said in the hint
        return
    try:
        found = recipes.show_edits(text, proposed)
    except ValueError:
        return
    ours = all(isinstance(change, recipes.Edit) and not change.consents for change in proposed)
    written = ", or let `packager build --fix` do it" if ours else ""
    for line, block in found:
        what = f"write instead of what begins on line {line}" if line else "add"
        what = what if block else f"remove what begins on line {line}"
        yield f"  in {path.name}, {what}{written}:"
        yield from (f"    {row}" for row in block.splitlines())


def propose_waivers(policy: str, findings: Sequence[Finding], today: datetime.date | None) -> Iterator[str]:
    """Yield the lines that waive findings: a profile that extends the recipe's, or what to add to its own."""
    from packager.api import policies

    rows = policies.draft_waivers(findings, today + datetime.timedelta(days=_DAYS)) if today else []
    if not rows:
        return
    if policy.endswith((".yaml", ".yml")):
        yield f"  to answer for it instead, add under `waivers` of {policy}:"
    else:
        yield "  to answer for it instead, write `policy: mine.yaml` in the recipe and mine.yaml beside it:"
        yield f"    extends: {policy}"
        yield "    waivers:"
    yield from (f"      - {row}" for row in rows)

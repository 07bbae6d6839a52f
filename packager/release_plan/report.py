# SPDX-License-Identifier: Apache-2.0
"""The results of a release for people and programs: a table, JSON, JUnit, SARIF, one HTML page without a network.

Files are written row by row, so that a page of thousands of models needs no more memory than one of ten.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from packager import __version__, escape
from packager.canonical import JSON
from packager.files import storage_errors, sync_directory
from packager.release_plan.driver import Rows
from packager.release_plan.plan import TASKS, ModelRow, Problem, State, TaskRow

FILES = ("release.json", "junit.xml", "index.html", "release.sarif")
SARIF = "https://json.schemastore.org/sarif-2.1.0.json"
_MARKS: dict[State, str] = {
    "planned": "run",
    "unchanged": "·",
    "done": "ok",
    "no": "NO",
    "failed": "FAIL",
    "skipped": "skip",
}
_LINES = 6  # of details that the table shows for one model
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:84rem;padding:0 1rem;color:#1c2330;background:#fff}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}p{margin:.3rem 0}
code{font-size:.85em;word-break:break-all}.scroll{overflow-x:auto}pre{white-space:pre-wrap;margin:.3rem 0}
table{border-collapse:collapse;width:100%;font-size:.88rem}caption{text-align:left;padding:.3rem 0}
th,td{padding:.3rem .5rem;text-align:left;border-bottom:1px solid #dfe3ea;vertical-align:top}
th.n,td.n{text-align:right;font-variant-numeric:tabular-nums}
.done{background:#d9f0e0}.no,.failed{background:#f8d4d2;font-weight:600}
.skipped,.unchanged{background:#eceef2;color:#3f4857}.planned{background:#dbe7fb}
@media(prefers-color-scheme:dark){body{background:#15181e;color:#dfe3ea}th,td{border-color:#323846}
.done{background:#1d4a30}.no,.failed{background:#6d2320}.skipped,.unchanged{background:#2a2f3a;color:#c0c7d3}
.planned{background:#22385f}}
@media print{body{margin:0;max-width:none}}
"""


def render_table(rows: Rows) -> Iterator[str]:
    """Yield the lines of the table: a row for each model, then every problem, then the sums."""
    tasks = _tasks(rows)
    width = max((len(_title(row)) for row in rows), default=0)
    yield "  ".join([f"{'model':{width}}", *(f"{name:7}" for name in tasks), "seconds"])
    for row in rows:
        states = {item.task: _MARKS[item.state] for item in row.tasks}
        marks = (f"{states.get(name, ''):7}" for name in tasks)
        yield "  ".join([f"{_title(row):{width}}", *marks, f"{row.seconds:7.1f}"])
    for row in rows:
        yield from _told(row)
    yield summarise(rows)


def render_plan(rows: Rows) -> Iterator[str]:
    """Yield the lines of a plan: every task that will run, with its reason."""
    for row in rows:
        targets = f" for {', '.join(row.targets)}" if row.targets else ""
        yield f"{_title(row)}{targets}"
        for task in row.tasks:
            yield f"  {task.task:8} {task.state:10} {task.reason}"
        yield from (f"  {'cell':8} {cell}" for cell in row.cells)
        yield from (f"  {line}" for line in _told(row))
    yield summarise(rows)


def _told(row: ModelRow) -> Iterator[str]:
    for task in row.tasks:
        if task.problem:
            yield f"{_title(row)}: {task.task}: {task.problem.message}"
            yield from (f"  | {line}" for line in task.problem.details[-_LINES:])
            if task.problem.hint:
                yield f"  hint: {task.problem.hint}"


def summarise(rows: Rows) -> str:
    """Return one sentence with the sums."""
    totals = rows.totals
    states = ", ".join(f"{count} {state}" for state, count in totals.states.items() if count)
    steps = f"; {totals.executed} steps run, {totals.cached} cached" if totals.executed or totals.cached else ""
    return f"{totals.models} models: {states or 'none'}{steps}"


def build_document(rows: Rows) -> JSON:
    """Return the result as one document."""
    return {"ok": rows.totals.ok, "totals": rows.totals.to_json(), "models": [row.to_json() for row in rows]}


def write(rows: Rows, folder: Path) -> None:
    """Write the files of `FILES` into a folder, each complete or not at all."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, parts in zip(FILES, (_json(rows), _junit(rows), _html(rows), _sarif(rows)), strict=True):
            _write(folder / name, parts)


def _write(path: Path, parts: Iterable[str]) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def _title(row: ModelRow) -> str:
    return escape.line(f"{row.name}:{row.version}" if row.version else row.name)


def _tasks(rows: Rows) -> list[str]:
    return [name for name in TASKS if name in rows.totals.tasks]


# JSON


def _json(rows: Rows) -> Iterator[str]:
    yield f'{{"ok": {json.dumps(rows.totals.ok)}, "totals": {json.dumps(rows.totals.to_json())}, "models": [\n'
    for number, row in enumerate(rows):
        yield f"{',' if number else ''}{escape.json_text(row.to_json())}\n"
    yield "]}\n"


# JUnit


def _junit(rows: Rows) -> Iterator[str]:
    yield '<?xml version="1.0" encoding="utf-8"?>\n<testsuites name="packager release">\n'
    for row in rows:
        bad = sum(item.state == "no" for item in row.tasks), sum(item.state == "failed" for item in row.tasks)
        idle = sum(item.state in ("skipped", "unchanged", "planned") for item in row.tasks)
        yield (
            f'<testsuite name={_quoted(_title(row))} tests="{len(row.tasks)}" failures="{bad[0]}" errors="{bad[1]}" '
            f'skipped="{idle}" time="{row.seconds:.3f}">\n'
        )
        yield from (_case(row, item) for item in row.tasks)
        yield "</testsuite>\n"
    yield "</testsuites>\n"


def _case(row: ModelRow, item: TaskRow) -> str:
    start = f'<testcase classname={_quoted(row.name)} name={_quoted(item.task)} time="{item.seconds:.3f}"'
    element = {"no": "failure", "failed": "error", "done": None}.get(item.state, "skipped")
    if element is None:
        return f"{start}/>\n"
    said = item.problem.message if item.problem else f"{item.state}: {item.reason}"
    details = "\n".join(item.problem.details) if item.problem else ""
    return f"{start}><{element} message={_quoted(said)}>{_xml(details)}</{element}></testcase>\n"


def _quoted(text: object) -> str:
    return quoteattr(escape.line(text))


def _xml(text: str) -> str:
    return "\n".join(escape.html(line) for line in text.splitlines())


# SARIF


def _sarif(rows: Rows) -> Iterator[str]:
    """Yield a SARIF log of what stopped models: the task is the rule, the recipe the place."""
    rules = [{"id": name, "shortDescription": {"text": f"`{name}` of a release"}} for name in TASKS]
    driver = {"name": "packager", "semanticVersion": __version__, "rules": rules}
    yield f'{{"$schema": {json.dumps(SARIF)}, "version": "2.1.0", "runs": [{{"tool": {{"driver": '
    yield f'{json.dumps(driver)}}}, "columnKind": "unicodeCodePoints", "results": [\n'
    first = True
    for row in rows:
        for item in row.tasks:
            if item.problem:
                yield f"{'' if first else ','}{escape.json_text(_sarif_result(rows, row, item, item.problem))}\n"
                first = False
    yield "]}]}\n"


def _sarif_result(rows: Rows, row: ModelRow, item: TaskRow, problem: Problem) -> JSON:
    recipe = Path(row.recipe)
    place = recipe.relative_to(rows.base) if rows.base and recipe.is_relative_to(rows.base) else recipe
    said = [f"{_title(row)}: {problem.message}.", *problem.details, *([f"{problem.hint}."] if problem.hint else [])]
    location = {"artifactLocation": {"uri": quote(place.as_posix())}, "region": {"startLine": 1}}
    return {
        "ruleId": item.task,
        "ruleIndex": TASKS.index(item.task),
        "level": "error",
        "message": {"text": "\n".join(said)},
        "locations": [{"physicalLocation": location}],
        "partialFingerprints": {"packager/v1": f"{row.name}/{item.task}"},
    }


# HTML


def _html(rows: Rows) -> Iterator[str]:
    tasks, totals = _tasks(rows), rows.totals
    word = "done" if totals.ok else "no"
    said = "every gate holds" if totals.ok else "not every gate holds"
    yield (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Release</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<style>{_STYLE}</style></head><body><main><h1>Release</h1>"
        f'<p class="{word}">{said}: {escape.html(summarise(rows))}</p>'
    )
    yield _sums(rows, tasks)
    head = "".join(f'<th scope="col">{name}</th>' for name in tasks)
    yield (
        '<h2>Models</h2><div class="scroll"><table><thead><tr><th scope="col">model</th>'
        f'{head}<th scope="col">targets</th><th scope="col" class="n">seconds</th><th scope="col">bundle</th></tr>'
        "</thead><tbody>"
    )
    for row in rows:
        yield _line(row, tasks)
    yield "</tbody></table></div><h2>Problems and warnings</h2>"
    found = False
    for row in rows:
        for part in _problems(row):
            found = True
            yield part
    yield ("" if found else "<p>None.</p>") + "</main></body></html>\n"


def _sums(rows: Rows, tasks: list[str]) -> str:
    totals = rows.totals.to_json()
    states = [state for state in _MARKS if any(totals["tasks"][name][state] for name in tasks)]
    head = "".join(f'<th scope="col" class="n">{state}</th>' for state in states)
    body = "".join(
        f'<tr><th scope="row">{name}</th>'
        + "".join(f'<td class="n">{totals["tasks"][name][state]}</td>' for state in states)
        + f'<td class="n">{totals["task_seconds"][name]:.1f}</td></tr>'
        for name in tasks
    )
    return (
        f'<h2>Tasks</h2><table><thead><tr><th scope="col">task</th>{head}<th scope="col" class="n">seconds</th></tr>'
        f"</thead><tbody>{body}</tbody></table>"
    )


def _line(row: ModelRow, tasks: list[str]) -> str:
    states = {item.task: item for item in row.tasks}
    cells = "".join(_cell(states.get(name)) for name in tasks)
    called = row.reference or row.digest  # the one ends in the other
    bundle = f"<code>{escape.html(called)}</code>" if called else ""
    return (
        f'<tr><th scope="row">{escape.html(_title(row))}</th>{cells}<td>{escape.html(", ".join(row.targets))}</td>'
        f'<td class="n">{row.seconds:.1f}</td><td>{bundle}</td></tr>'
    )


def _cell(item: TaskRow | None) -> str:
    if item is None:
        return "<td></td>"
    return f'<td class="{item.state}" title="{escape.html(item.reason)}">{item.state}</td>'


def _problems(row: ModelRow) -> Iterator[str]:
    for item in row.tasks:
        if item.problem:
            hint = f"<p>{escape.html(item.problem.hint)}</p>" if item.problem.hint else ""
            details = "\n".join(escape.html(line) for line in item.problem.details)
            more = f"<pre>{details}</pre>" if details else ""
            said = escape.html(item.problem.message)
            yield f"<h3>{escape.html(_title(row))}: {item.task}</h3><p>{said}</p>{hint}{more}"
    if row.warnings:
        lines = "".join(f"<li>{escape.html(text)}</li>" for text in row.warnings)
        yield f"<h3>{escape.html(_title(row))}: warnings</h3><ul>{lines}</ul>"

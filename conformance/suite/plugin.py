# SPDX-License-Identifier: Apache-2.0
"""pytest as the runner: `--cell FILE` is the cell to judge, `--result FILE` the file for the verdict.

A test is one law of one level, named by its file. What failed at L0 or L1 makes the later levels meaningless: they
are skipped with that reason, and the cell fails. A runtime that cannot exist on this machine skips every test and
the cell. A skip is never a pass: the verdict says which levels really passed. What a runtime is known to get wrong for
every model (`deviations` of the cell file, from L4 up) is recorded as `known`: it fails no cell, and passes none.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from suite import cell as cells
from suite import contract as contracts
from suite import vectors as reference
from suite.adapter import AdapterError, UnavailableError
from suite.cell import Cell
from suite.contract import Contract
from suite.oip import UnsupportedError
from suite.subject import Subject

LEVELS = ("L0 integrity", "L1 load", "L2 interface", "L3 numerics", "L4 behaviour", "L5 speed")


class Record:
    """What the tests of one cell found, and what they measured on the way."""

    def __init__(self) -> None:
        self.checks: list[dict[str, Any]] = []
        self.measures: dict[str, Any] = {}
        self.unavailable: str | None = None
        self.broken: str | None = None  # the first failure of L0 or L1

    def outcome(self, level: int) -> tuple[str, str]:
        """Return `pass`, `fail` or `skip` and the reason."""
        failed = [check for check in self.checks if check["outcome"] == "fail"]
        if failed:
            return "fail", f"L{failed[0]['level']} {failed[0]['name']}: {failed[0]['reason']}"
        if self.unavailable:
            return "skip", self.unavailable
        passed = {check["level"] for check in self.checks if check["outcome"] == "pass"}
        needed = set(range(min(level, 3) + 1))
        if missing := sorted(needed - passed):
            return "fail", f"nothing passed at level {', '.join(f'L{number}' for number in missing)}"
        return "pass", ""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cell", required=False, type=Path, help="the cell file")
    parser.addoption("--result", type=Path, help="where to write the verdict as JSON")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--cell") is None:
        raise pytest.UsageError("expected --cell FILE; conformance/README.md describes the file")
    config.stash[_CELL] = subject = cells.read(config.getoption("--cell"))
    config.stash[_CONTRACT] = contracts.read(subject.contract)
    config.stash[_RECORD] = Record()
    config.stash[_STARTED] = time.monotonic()


_CELL = pytest.StashKey[Cell]()
_CONTRACT = pytest.StashKey[Contract]()
_RECORD = pytest.StashKey[Record]()
_STARTED = pytest.StashKey[float]()
_SUBJECT = pytest.StashKey[Subject]()


def level_of(item: pytest.Item) -> int:
    """Return the level a test belongs to: `test_l3_….py` is 3."""
    return int(item.path.name.removeprefix("test_l")[0])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = config.stash[_CELL].level
    config.hook.pytest_deselected(items=[item for item in items if level_of(item) > wanted])
    items[:] = sorted((item for item in items if level_of(item) <= wanted), key=level_of)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cell = metafunc.config.stash[_CELL]
    if "channel_name" in metafunc.fixturenames:
        metafunc.parametrize("channel_name", cell.channels)
    if "case_name" in metafunc.fixturenames:
        metafunc.parametrize("case_name", reference.read(cell.vectors).names)


def pytest_runtest_setup(item: pytest.Item) -> None:
    record = item.config.stash[_RECORD]
    if record.unavailable:
        pytest.skip(record.unavailable)
    if record.broken and level_of(item) > 1:
        pytest.skip(f"not reached: {record.broken}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    """Skip values that this channel cannot carry, such as NaN in JSON: no runtime is at fault."""
    try:
        return (yield)
    except UnsupportedError as error:
        pytest.skip(str(error))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    record, level = item.config.stash[_RECORD], level_of(item)
    if call.when == "teardown" and not report.failed:
        return report
    if call.when == "setup" and report.passed:
        return report
    outcome = {"passed": "pass", "failed": "fail", "skipped": "skip"}[report.outcome]
    check = {
        "level": level,
        "name": item.name,
        "outcome": outcome,
        "reason": _reason(call, report),
        "seconds": round(call.duration, 4),
    }
    known = item.config.stash[_CELL].deviations.get(item.name)
    if outcome == "fail" and known and level >= 4:  # stays on record, and is not this bundle's fault
        outcome = "known"
        check.update(outcome=outcome, reason=f"{known}: {check['reason']}")
    record.checks.append(check)
    if outcome == "fail" and level <= 1 and record.broken is None:
        record.broken = f"{item.name}: {check['reason']}"
    return report


def _reason(call: pytest.CallInfo[None], report: pytest.TestReport) -> str:
    if call.excinfo is None:
        return ""
    error = call.excinfo.value
    text = getattr(error, "msg", None) or str(error) or type(error).__name__
    prefix = (
        "" if isinstance(error, AssertionError | AdapterError | pytest.skip.Exception) else f"{type(error).__name__}: "
    )
    return (prefix + str(text).split("\nassert ")[0].strip())[:600]


def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    if _SUBJECT in config.stash:
        config.stash[_SUBJECT].finish()
    if _RECORD in config.stash and (path := config.getoption("--result")):
        path.write_text(json.dumps(_verdict(config), indent=1))


def _verdict(config: pytest.Config) -> dict[str, Any]:
    cell, record = config.stash[_CELL], config.stash[_RECORD]
    subject = config.stash.get(_SUBJECT, None)
    outcome, reason = record.outcome(cell.level)
    spent = time.monotonic() - config.stash[_STARTED]
    return {
        "cell": cell.name,
        "target": cell.target,
        "runtime": cell.runtime,
        "version": cell.version,
        "device": cell.device,
        "outcome": outcome,
        "reason": reason,
        "levels": {name[:2]: _level(record, number) for number, name in enumerate(LEVELS[: cell.level + 1])},
        "identity": {**_identity(subject)},
        "checks": record.checks,
        "measures": {
            **record.measures,
            "seconds": round(spent, 3),
            "overhead_seconds": round(_overhead(record, spent), 3),
        },
    }


def _level(record: Record, number: int) -> str:
    """Return the outcome of a level: one failure fails it, and it takes at least one pass to pass."""
    found = {check["outcome"] for check in record.checks if check["level"] == number}
    return next((outcome for outcome in ("fail", "pass", "known", "skip") if outcome in found), "skip")


def _identity(subject: Subject | None) -> dict[str, Any]:
    if subject is None:
        return {}
    known = {**subject.hello, **subject.loaded, "pid": subject.pid}
    keys = ("runtime", "version", "engine", "provider", "device", "python", "numpy", "pid", "server")
    return {key: known[key] for key in keys if known.get(key) not in (None, "")}


def _overhead(record: Record, spent: float) -> float:
    """Return the seconds that went into neither loading nor a test: what one more cell costs in any case."""
    loaded = float(record.measures.get("cold_start_seconds", 0.0))
    return spent - loaded - sum(float(check["seconds"]) for check in record.checks)


@pytest.fixture(scope="session")
def cell(pytestconfig: pytest.Config) -> Cell:
    return pytestconfig.stash[_CELL]


@pytest.fixture(scope="session")
def contract(pytestconfig: pytest.Config) -> Contract:
    return pytestconfig.stash[_CONTRACT]


@pytest.fixture(scope="session")
def vectors(cell: Cell) -> reference.Vectors:
    return reference.read(cell.vectors)


@pytest.fixture(scope="session")
def measures(pytestconfig: pytest.Config) -> dict[str, Any]:
    """Numbers that tests leave for the report."""
    return pytestconfig.stash[_RECORD].measures


@pytest.fixture(scope="session")
def _started(pytestconfig: pytest.Config, cell: Cell, contract: Contract) -> Iterator[Subject]:
    subject = pytestconfig.stash[_SUBJECT] = Subject(cell, contract)
    try:
        subject.start()
    except UnavailableError as error:
        subject.close()
        pytestconfig.stash[_RECORD].unavailable = str(error)
        pytest.skip(str(error))
    yield subject
    subject.finish()


@pytest.fixture
def subject(_started: Subject) -> Subject:
    """The runtime under test, loaded."""
    return _started


@pytest.fixture
def channel(subject: Subject, channel_name: str) -> Any:
    """One channel of the runtime; a channel that it does not have is skipped with the reason."""
    try:
        return subject.channel(channel_name)
    except UnsupportedError as error:
        return pytest.skip(str(error))

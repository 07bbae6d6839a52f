# SPDX-License-Identifier: Apache-2.0
"""What tests cost in processor time, theirs and that of the processes they start: `pytest -p tests.support.times`.

Wall time says little on a machine that does other things; processor time adds up to what a run takes where it is alone.
Processes that a test leaves running count where they are waited for, fixtures that tests share with the first of them.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from tests.support import forks

PHASES = ("setup", "call", "teardown")
_COSTS: dict[str, dict[str, list[float]]] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--times",
        metavar="FILE",
        help="append a line of JSON per test: seconds of processor and of wall for each phase",
    )


def used() -> tuple[float, float]:
    """Return the processor seconds of this process and of those it has waited for, and the time."""
    now = os.times()
    return sum(now[:4]) + forks.RUNNER.used, now.elapsed


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    return (yield from _measured(item, "setup"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    return (yield from _measured(item, "call"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    return (yield from _measured(item, "teardown"))


def _measured(item: pytest.Item, phase: str) -> Iterator[None]:
    before = used()
    try:
        return (yield)
    finally:
        item.user_properties.append((phase, [after - start for after, start in zip(used(), before, strict=True)]))


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Costs(config.getoption("--times")))


class Costs:
    """What the tests of a run cost; each is written when it has ended, so that a broken run leaves what it knows."""

    def __init__(self, file: str | None) -> None:
        self.file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            costs = {name: cost for name, cost in report.user_properties if name in PHASES}
            _COSTS[report.nodeid] = costs
            if self.file:
                with Path(self.file).open("a") as out:
                    out.write(json.dumps({"test": report.nodeid, **costs}) + "\n")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what directories, files and the dearest tests cost."""
    sums: dict[str, float] = defaultdict(float)
    tests: dict[str, float] = {}
    for name, phases in _COSTS.items():
        path = PurePosixPath(name.partition("::")[0])
        tests[name] = sum(cost[0] for cost in phases.values())
        for place in (path, *path.parents[:-1]):
            sums[str(place)] += tests[name]
    terminalreporter.section("seconds of processor time")
    for group in (sums, tests):
        for name, seconds in sorted(group.items(), key=lambda entry: -entry[1])[:60]:
            terminalreporter.write_line(f"{seconds:9.1f}  {name}")

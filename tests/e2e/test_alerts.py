# SPDX-License-Identifier: Apache-2.0
"""Every alert fires once on what a real server said, and none on a server that is well; promtool is the judge.

A server is brought into each state, and scraped before and after. What the two scrapes say, series and values as they
are, is laid out over four hours: counters rise each minute by what they rose between the scrapes. The rules are those
that are rendered for the server's bundle.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from packager.bundle.bundle import Bundle
from packager.deploy import server_files
from packager.knobs.knobs import Override
from packager.store.store import Store
from tests.e2e.conftest import tool
from tests.e2e.test_rendered import judged
from tests.e2e.test_server import Server, app, models, running  # noqa: F401 - fixtures
from tests.support.deployments import carrier, rendered, values
from tests.support.endings import children

pytestmark = [pytest.mark.slow]  # promtool, as in test_rendered
MINUTES = 240
EASY = {"p50_ms": 10_000.0, "p99_ms": 20_000.0, "at_rps": 1e6, "memory": 1e11}
TIGHT = {"p50_ms": 0.2, "p99_ms": 0.3, "at_rps": 0.01, "memory": 1e6}
FULL = Override("server.max_in_flight", "1", "--set")
LATENCY = {"LatencyP50Page", "LatencyP50Ticket", "LatencyP99Page", "LatencyP99Ticket"}
Series = dict[str, float]


def scraped(server: Server) -> Series:
    """Return the samples of /metrics by series, as a Prometheus would that calls them job `j`, instance `i`."""
    text = server.request("GET", "/metrics")[2].decode()
    found = {}
    for row in text.splitlines():
        if row and not row.startswith("#"):
            series, _, number = row.rpartition(" ")
            name, _, labels = series.rstrip("}").partition("{")
            found[f'{name}{{{labels}{"," if labels else ""}job="j",instance="i"}}'] = float(number)
    return found


@dataclass
class State:
    """What a server said: before and after something happened, and each time that it was asked between."""

    before: Series
    after: Series
    between: list[Series] = field(default_factory=list)

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield the series with promtool's notation of their values."""
        for series, value in self.after.items():
            if self.between and series in self.between[0]:
                steps = [one[series] for one in self.between]
                lead = MINUTES - 10 * len(steps)
                told = " ".join(f"{one!r}x9" for one in steps)
                yield series, f"{steps[0]!r}x{lead} {told}"
            elif re.search(r"_(total|count|sum|bucket)\{", series):
                rose = value - self.before.get(series, 0.0)
                yield series, f"0+{rose!r}x{MINUTES}"
            else:
                yield series, f"{value!r}x{MINUTES}"


@contextmanager
def served(app: Path, models: Mapping[str, Path], bundle: Bundle, *options: str, **other: str) -> Iterator[Server]:  # noqa: F811
    """Serve the slow model under the bundle's name, digest and knobs."""
    config = models["slow"].with_name(f"{bundle.name}-{len(other)}.json")
    document = json.loads(models["slow"].read_text()) | {"name": bundle.name, "digest": bundle.digest} | other
    config.write_text(json.dumps(document))
    knobs = server_files.build_document(values("observability", bundle))
    with running(app, config, f"--knobs={knobs}", *options) as server:
        yield server


def ask(server: Server, rounds: int = 1, name: str = "tiny") -> int:
    body = json.dumps({"inputs": [{"name": "rounds", "datatype": "INT64", "shape": [1], "data": [rounds]}]}).encode()
    return server.request("POST", f"/v2/models/{name}/infer", body)[0]


def seconds(server: Server, wanted: float) -> int:
    """Return the rounds that take so long."""
    return int(wanted / (server.wait_for("ready")["run_ms"] / 1000 / 20))


def in_flight(found: Series) -> float:
    return found['packager_server_requests_in_flight{job="j",instance="i"}']


def until(what: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def fired(bundle: Bundle, folder: Path, state: State, fires: set[str], *wishes: Override) -> None:
    """Hold the rules of a bundle against a state: exactly these fire."""
    out = rendered("observability", bundle, folder / "rules", *wishes)
    rules = yaml.safe_load((out / "rules.yaml").read_text())["groups"][0]["rules"]
    info = next((series for series in state.after if series.startswith("packager_bundle_info{")), "")
    deployed = next((series for series in state.after if series.startswith("packager_deployment_info{")), "")
    kept = {
        "OtherBundle": info,
        "OtherKnobs": deployed,
        "Memory": '{job="j",instance="i"}',
        "Saturated": '{job="j",instance="i"}',
        "Restarts": '{job="j",instance="i"}',
        "Absent": "" if info else f'{{name="{bundle.name}"}}',
    }
    tests = []
    for rule in rules:
        name = rule["alert"].removeprefix("Tiny")
        labels = dict(re.findall(r'(\w+)="([^"]*)"', kept.get(name, "")))
        expected = [{"exp_labels": rule["labels"] | labels, "exp_annotations": rule["annotations"]}]
        tests.append(
            {"eval_time": f"{MINUTES}m", "alertname": rule["alert"], "exp_alerts": expected if name in fires else []}
        )
    assert fires <= {rule["alert"].removeprefix("Tiny") for rule in rules}
    series = [{"series": name, "values": told} for name, told in state.rows()]
    case = {"interval": "1m", "input_series": series, "alert_rule_test": tests}
    document = {"rule_files": [str(out / "rules.yaml")], "evaluation_interval": "2m", "tests": [case]}
    (folder / "test.yaml").write_text(yaml.safe_dump(document))
    assert "SUCCESS" in judged(tool("promtool"), "test", "rules", folder / "test.yaml")


@pytest.fixture
def easy(tmp_path: Path) -> Bundle:
    return carrier(Store(tmp_path / "easy"), EASY)


@pytest.fixture
def tight(tmp_path: Path) -> Bundle:
    return carrier(Store(tmp_path / "tight"), TIGHT)


def busy(server: Server, *, refused: bool = False) -> State:
    """Ask a few times; where the server takes one request at once, have others refused meanwhile."""
    assert ask(server) == 200
    time.sleep(1.2)  # other processes hand on their counts once a second
    before = scraped(server)
    long = threading.Thread(target=ask, args=(server, seconds(server, 2.0)))
    if refused:
        long.start()
        until(lambda: in_flight(scraped(server)) == 1)
    for _ in range(20):
        ask(server)
    if refused:
        long.join()
    time.sleep(1.2)
    return State(before, scraped(server))


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_server_that_is_well_fires_nothing(
    app: Path,  # noqa: F811
    models: dict,  # noqa: F811
    easy: Bundle,
    tmp_path: Path,
    processes: str,
) -> None:
    with served(app, models, easy, "--processes", processes) as server:
        fired(easy, tmp_path, busy(server), set())


def test_objectives_that_are_missed(app: Path, models: dict, tight: Bundle, tmp_path: Path) -> None:  # noqa: F811
    with served(app, models, tight, "--processes", "2") as server:
        fired(tight, tmp_path, busy(server), LATENCY | {"Traffic", "Memory"})


def test_a_full_server_that_refuses(app: Path, models: dict, easy: Bundle, tmp_path: Path) -> None:  # noqa: F811
    with served(app, models, easy, "--max-in-flight", "1") as server:
        state = busy(server, refused=True)
        assert any('code="429"' in series for series in state.after)
        fired(easy, tmp_path, state, {"ErrorsPage", "ErrorsTicket"})


def test_a_server_with_no_room_left(app: Path, models: dict, easy: Bundle, tmp_path: Path) -> None:  # noqa: F811
    with served(app, models, easy, "--max-in-flight", "1") as server:
        ask(server)
        before = scraped(server)
        long = threading.Thread(target=ask, args=(server, seconds(server, 2.0)))
        long.start()
        until(lambda: in_flight(scraped(server)) == 1)
        state = State(before, scraped(server))
        long.join()
    rendered_with, turned = (server_files.digest_tuning(values("observability", easy, *more)) for more in ((), (FULL,)))
    state.after = {series.replace(rendered_with, turned): number for series, number in state.after.items()}
    fired(easy, tmp_path, state, {"Saturated"}, FULL)


def test_a_server_that_is_not_ready(app: Path, models: dict, easy: Bundle, tmp_path: Path) -> None:  # noqa: F811
    with served(app, models, easy) as server:
        ask(server)
        before = scraped(server)
        long = threading.Thread(target=ask, args=(server, seconds(server, 2.0)))
        long.start()
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("draining")
        state = State(before, scraped(server))
        long.join()
    fired(easy, tmp_path, state, {"Absent"})
    fired(easy, tmp_path / "none", State({}, {"up": 1.0}), {"Absent"})


def test_processes_that_end_again_and_again(app: Path, models: dict, easy: Bundle, tmp_path: Path) -> None:  # noqa: F811
    with served(app, models, easy, "--processes", "2") as server:
        ask(server)
        time.sleep(1.2)
        seen = [scraped(server)]
        for number in range(4):
            os.kill(children(server.process.pid)[0], signal.SIGKILL)
            until(lambda wanted=3 + number: len(server.events("ready")) >= wanted)
            time.sleep(1.2)
            seen.append(scraped(server))
        name = 'process_start_time_seconds{job="j",instance="i"}'
        assert len({one[name] for one in seen}) == 5
        cpu = [one['process_cpu_seconds_total{job="j",instance="i"}'] for one in seen]
        assert cpu == sorted(cpu) and cpu[-1] > cpu[0]
        state = State(seen[0], seen[-1], [{name: one[name]} for one in seen])
        fired(easy, tmp_path, state, {"Restarts"})


def test_a_server_of_another_release_or_with_other_knobs(app: Path, models: dict, easy: Bundle, tmp_path: Path) -> None:  # noqa: F811
    with served(app, models, easy, digest="sha256:" + "9" * 64) as server:
        fired(easy, tmp_path / "release", busy(server), {"OtherBundle"})
    with served(app, models, easy) as server:
        fired(easy, tmp_path / "knobs", busy(server), {"OtherKnobs"}, Override("server.drain", "7", "--set"))


def test_every_alert_is_among_those_above(tight: Bundle, tmp_path: Path) -> None:
    out = rendered("observability", tight, tmp_path / "rules")
    rules = yaml.safe_load((out / "rules.yaml").read_text())["groups"][0]["rules"]
    tried = {
        *LATENCY,
        "Traffic",
        "Memory",
        "ErrorsPage",
        "ErrorsTicket",
        "Saturated",
        "Absent",
        "Restarts",
        "OtherBundle",
        "OtherKnobs",
    }
    assert {rule["alert"].removeprefix("Tiny") for rule in rules} == tried

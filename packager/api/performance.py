# SPDX-License-Identifier: Apache-2.0
"""How fast installations answer on this machine, how two compare, and which knobs serve an objective.

    subject = performance.open_subject("now", Path("/srv/encoder"))
    found = performance.measure_curves([subject], performance.Plan(clients=(1, 8), rounds=3))
    for line in performance.format_curves(found.to_json()):
        print(line)
    Path("curves.svg").write_text(performance.draw_curves(found.to_json()))

Servers are started on a port of their own and get the reference inputs of their bundle; nothing else on this machine
should be busy meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from packager.api._lazy import lazily

if TYPE_CHECKING:
    from packager.bench.curves import Curves
    from packager.bench.measure import Plan, Subject
    from packager.bench.tune import Tuned
    from packager.canonical import JSON
    from packager.events import OnEvent
else:
    __getattr__ = lazily(
        __name__,
        {
            "Curves": "packager.bench.curves",
            "Plan": "packager.bench.measure",
            "Subject": "packager.bench.measure",
            "Tuned": "packager.bench.tune",
        },
    )

__all__ = [
    "Curves",
    "Plan",
    "Subject",
    "Tuned",
    "draw_curves",
    "format_curves",
    "format_values",
    "measure_curves",
    "open_subject",
    "tune_knobs",
]


def open_subject(
    label: str, directory: Path, values: Mapping[str, str] | None = None, *, rows: int | None = None
) -> Subject:
    """Open what is installed in a directory, to be measured with `values` of knobs (as text) over its own.

    Requests have `rows` rows (default: the fewest of its reference inputs). Raises UsageError where nothing is
    installed, no reference input fits, or the installation sets tokens or TLS.
    """
    from packager.bench import measure

    return measure.open_subject(label, directory, values or {}, rows)


def measure_curves(subjects: Sequence[Subject], plan: Plan, on_event: OnEvent | None = None) -> Curves:
    """Measure subjects in turn, round by round, each with a server of its own.

    Raises StepError where a server does not start, refuses a reference input or stops answering.
    """
    from packager.bench import curves
    from packager.events import ignore

    return curves.measure_curves(subjects, plan, on_event or ignore)


def format_curves(document: JSON) -> Sequence[str]:
    """Return the lines of a table of what `Curves.to_json` returns. Raises nothing."""
    from packager.bench import curves

    return curves.format_curves(document)


def draw_curves(document: JSON) -> str:
    """Return latency over throughput as an SVG, of what `Curves.to_json` returns. Raises nothing."""
    from packager.bench import plot

    return plot.draw_curves(document)


def tune_knobs(
    directory: Path,
    objective: str,
    trials: Path,
    *,
    clients: int = 8,
    seconds: float = 3.0,
    minutes: float = 10.0,
    rounds: int = 5,
    rows: int | None = None,
    on_event: OnEvent | None = None,
) -> Tuned:
    """Search knobs of an installation that serve an objective better than what is set, and prove it.

    `objective` is `most throughput`, `p99 <= 5 ms` or `least p50`; `trials` is a file that is made, or that a search
    goes on from. The search ends after `minutes`; the proof takes `rounds` more on either side. Raises UsageError.
    """
    from packager.api.conformance import count_processors
    from packager.bench import tune
    from packager.bench.objective import Objective
    from packager.events import ignore

    search = tune.Search(Objective.parse(objective), clients, seconds, minutes, rounds, rows)
    return tune.tune(directory, search, trials, count_processors(), on_event or ignore)


def format_values(tuned: Tuned, day: str) -> str:
    """Return the values file of a search that found something, its evidence and the `day` as comments.

    Raises nothing.
    """
    from packager.bench import tune

    return tune.values_file(tuned, day)

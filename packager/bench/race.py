# SPDX-License-Identifier: Apache-2.0
"""Search knobs: values of one knob race against what is best so far, knob after knob, until nothing improves.

In every lap of a race the best so far and its challengers are measured one after the other, in an order that
alternates, so that a machine that slows down meanwhile slows all of them; after each lap the worse half of the
challengers leaves. The last one wins only if it was better over all laps, and by more than they vary. One lap of one
value, which is what a load generator gives, says little where other programs run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from packager import canonical
from packager.bench.load import Load
from packager.bench.objective import Objective
from packager.canonical import JSON
from packager.files import storage_errors, write_atomically
from packager.server.declaration import Knob

Values: TypeAlias = Mapping[str, JSON]
LAPS = 5
KNOBS = ("runtime.threads", "server.processes", "server.workers", "runtime.processes", "batch.rows", "batch.window")
"""The knobs that are searched, in this order, where the schema of the bundle has them."""
_MIN_GAIN = 1.02  # over all laps of a race, less one standard error: less is noise
_FORM = 2  # of the file of trials: 2, laps of races


class OutOfTimeError(Exception):
    """The time of a search is over."""


class Trials:
    """Loads by race, lap and values, appended to a file as they are measured; a repeated search finds them there."""

    def __init__(self, path: Path, identity: Mapping[str, JSON]) -> None:
        self._path, self._known = path, dict[tuple[str, int, str], Load]()
        head = canonical.dump({**identity, "form": _FORM})
        with storage_errors(path.parent):
            lines = path.read_bytes().split(b"\n") if path.is_file() else []
            if not lines or lines[0] != head:
                write_atomically(path, head + b"\n")
                lines = []
        for line in lines[1:]:
            try:
                row = json.loads(line)
                key = str(row["race"]), int(row["lap"]), str(row["values"])
                self._known[key] = Load(tuple(row["milliseconds"]), row["seconds"])
            except (ValueError, KeyError, TypeError):
                continue  # the last line of a search that was killed

    def __len__(self) -> int:
        """How many values were tried, however often."""
        return len({values for _, _, values in self._known})

    def get(self, race: str, lap: int, values: Values) -> Load | None:
        """Return what was measured, now or in an earlier search."""
        return self._known.get((race, lap, _key(values)))

    def add(self, race: str, lap: int, values: Values, load: Load) -> None:
        """Remember what was measured."""
        self._known[race, lap, _key(values)] = load
        row = {"race": race, "lap": lap, "values": _key(values), "seconds": load.seconds}
        row["milliseconds"] = [round(one, 4) for one in load.milliseconds]
        with storage_errors(self._path.parent), self._path.open("ab") as file:
            file.write(json.dumps(row).encode() + b"\n")


def _key(values: Values) -> str:
    return json.dumps(dict(values), sort_keys=True)


def list_candidates(knob: Knob, cores: int) -> list[JSON]:
    """Return the values of a knob that are tried on a machine with so many cores, within the bounds of its schema."""
    powers = [1 << power for power in range(11)]
    own: Mapping[str, Sequence[float]] = {
        "batch.rows": [*powers[:8]],
        "batch.window": [0, 0.5, 1, 2, 5],
        "runtime.processes": [0, *(count for count in powers if count <= cores)],
    }
    wished = own.get(knob.name, [*(count for count in powers if count < cores), cores])
    return [value for value in dict.fromkeys(wished) if knob.allows(value)]


class Race:
    """Races over knobs. `measure` returns a load with some values, empty where the server gives no answer with them.

    It raises OutOfTimeError when the search is over; `late` says so.
    """

    def __init__(
        self, objective: Objective, trials: Trials, measure: Callable[[Values], Load], tell: Callable[[str], None]
    ) -> None:
        self._objective, self.trials, self._measure, self._tell = objective, trials, measure, tell
        self.late = False

    def search(self, knobs: Sequence[Knob], set_now: Values, cores: int) -> dict[str, JSON]:
        """Return the values that serve the objective best, beside those that are set now."""
        best: dict[str, JSON] = {}
        held = {_key(best)}  # what was the best once is not tried again, else noise leads in circles
        improved = True
        try:
            while improved:
                improved = False
                for knob in knobs:
                    field = [values for values in _challengers(knob, best, set_now, cores) if _key(values) not in held]
                    won = self._win(knob.name, best, field)
                    if won != best:
                        best, improved = won, True
                        held.add(_key(won))
                        self._tell(f"better: {show_values(best)}")
        except OutOfTimeError:
            self.late = True
        return best

    def _win(self, name: str, best: dict[str, JSON], challengers: list[dict[str, JSON]]) -> dict[str, JSON]:
        """Return the winner of one race."""
        race = f"{name} {_key(best)}"
        if not challengers:
            return best
        pairs: dict[str, list[tuple[Load, Load]]] = {_key(values): [] for values in challengers}
        for lap in range(LAPS):
            loads = self._run_lap(race, lap, [best, *challengers])
            if not loads[_key(best)].milliseconds:
                return next((values for values in challengers if loads[_key(values)].milliseconds), best)
            challengers = [values for values in challengers if loads[_key(values)].milliseconds]
            for values in challengers:
                pairs[_key(values)].append((loads[_key(best)], loads[_key(values)]))
            challengers.sort(key=lambda values: self._objective.compare(pairs[_key(values)]), reverse=True)
            left = (len(challengers) + 1) // 2 if lap < LAPS - 1 else 1
            challengers = challengers[:left]
        if challengers and self._objective.compare(pairs[_key(challengers[0])], errors=1) > _MIN_GAIN:
            return challengers[0]
        return best

    def _run_lap(self, race: str, lap: int, field: Sequence[Values]) -> dict[str, Load]:
        found: dict[str, Load] = {}
        for values in field if lap % 2 == 0 else reversed(field):
            load = self.trials.get(race, lap, values)
            if load is None:
                load = self._measure(values)
                self.trials.add(race, lap, values, load)
            found[_key(values)] = load
        return found


def _challengers(knob: Knob, best: Values, set_now: Values, cores: int) -> Iterator[dict[str, JSON]]:
    """Yield every other value of one knob beside the best values of the others."""
    for value in list_candidates(knob, cores):
        values = {**best, knob.name: value}
        if set_now.get(knob.name) == value:
            del values[knob.name]
        if values != best:
            yield values


def show_values(values: Values) -> str:
    """Return values as people read them."""
    return ", ".join(f"{name}={value}" for name, value in values.items()) or "what is set now"

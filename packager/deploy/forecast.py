# SPDX-License-Identifier: Apache-2.0
"""What `packager install` would do with a bundle on this host, before anything is written.

It asks what an installation asks: which target is served, whether the lock has this platform and Python, where its
wheels come from, whether there is room; and then whether the runtime that the lock names runs that target here. The
order is that of `install`, so the first "no" is the one that it would end with. No index is used.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.contract import host, preflight
from packager.contract.contract import Contract
from packager.contract.fleet import Site
from packager.contract.preflight import NOTHING, Proofs
from packager.contract.runtime_support import Reason
from packager.contract.runtime_tables import Outcome, Tables, load_shipped
from packager.deploy import install, served_environment, server_files, wheels
from packager.deploy.install import Index
from packager.errors import IntegrityError, PackagerError, SourceError
from packager.formats import project_locks
from packager.formats.wheel_locks import PYLOCK, requirements_name

_MAX_LOCK = project_locks.MAX_SIZE


@dataclass(frozen=True, slots=True)
class Arrival:
    """The answer: the target with the version of its runtime, why not, and where its wheels come from."""

    outcome: Outcome
    target: str | None
    runtime: str | None
    version: str | None
    supply: str | None
    reasons: tuple[Reason, ...]

    def to_json(self) -> JSON:
        return {
            "outcome": self.outcome,
            "target": self.target,
            "runtime": self.runtime,
            "version": self.version,
            "wheels": self.supply,
            "reasons": [reason.to_json() for reason in self.reasons],
        }


def foresee_install(
    bundle: Bundle,
    site: Site,
    directory: Path,
    index: Index,
    proofs: Proofs = NOTHING,
    tables: Tables = load_shipped,
    has_locale: Callable[[str], bool] = host.has_locale,
) -> Arrival:
    """Say what `install` would do on this host, which is `site`; `directory` is where, and has to exist."""
    contract = bundle.contract
    target = runtime = version = supply = None
    try:
        target = server_files.choose_target(contract)
        runtime = contract.targets[target].target.runtime
        install.check_room(directory, bundle, runtime, index)
        version, supply = _environment(bundle, runtime, index)
    except PackagerError as error:
        reason = Reason("install", target or bundle.name, error.message, error.hint)
        return Arrival("no", target, runtime, version, supply, (reason,))
    reached = preflight.judge_site(contract, replace(site, runtimes={runtime: version}), tables, proofs)
    (cell,) = (cell for cell in reached.cells if cell.target == target)
    lacking = tuple(_lacking(contract, has_locale))
    outcome: Outcome = "no" if lacking else cell.answer.outcome
    return Arrival(outcome, target, runtime, version, supply, (*lacking, *cell.answer.reasons))


def _environment(bundle: Bundle, runtime: str, index: Index) -> tuple[str, str]:
    """Return the locked version of a runtime for this platform, and where its wheels come from.

    Raises what an installation raises: NegativeAnswer for another platform, SourceError for wheels that are not there.
    """
    folder = f"deps/{runtime}/"
    there = [path.removeprefix(folder) for path, _ in bundle.tree if path.startswith(folder)]
    locked = wheels.read(bundle.read(folder + PYLOCK, limit=_MAX_LOCK), folder + PYLOCK, there)
    platform = locked.fitting(index.wheelhouse)
    name = requirements_name(platform)
    data = bundle.read(folder + name, limit=_MAX_LOCK)
    pins = {pin.name: pin.version for pin in project_locks.parse(data, name).pins}
    version = next((pins[name] for name in host.list_distributions(runtime) if name in pins), None)
    if version is None:
        raise IntegrityError(f"`{folder}{name}` locks no {runtime}, which the target runs on", subject=folder + name)
    if index.environments is not None and served_environment.is_kept(index.environments, data.decode()):
        supply = "installed here already"
    elif index.wheelhouse is None and locked.carried is not None:
        supply = "carried by the bundle"
    elif index.wheelhouse is None:
        supply = "from a package index, which was not contacted"
    else:
        supply = f"from `{index.wheelhouse}`"
        if missing := sorted(set(locked.platforms[platform]) - set(_names(index.wheelhouse))):
            named = ", ".join(missing[:3])
            raise SourceError(
                f"`{index.wheelhouse}` lacks {len(missing)} of the locked wheels: {named}",
                hint=f"put exactly the wheels that {folder}{name} names there",
            )
    if importlib.util.find_spec("pip") is None and importlib.util.find_spec("ensurepip") is None:
        raise SourceError(
            "no environment can be made here: neither pip nor ensurepip is there",
            hint="install the distribution's package of pip or venv (Debian: `python3-pip` or `python3-venv`)",
        )
    return version.partition("+")[0], supply


def _names(wheelhouse: Path) -> Iterable[str]:
    return (path.name for path in wheelhouse.glob("*.whl"))


def _lacking(contract: Contract, has_locale: Callable[[str], bool]) -> Iterator[Reason]:
    for name in preflight.list_locales(contract.graph):
        if not has_locale(name):
            yield Reason(
                "locale",
                name,
                f"texts are compared in the locale `{name:.64}`, which this host lacks",
                "`locale-gen` makes it, or export the model with `locale: C.UTF-8`",
            )

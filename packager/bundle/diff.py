# SPDX-License-Identifier: Apache-2.0
"""What changed between two bundles, in the words of their users, and which version step that asks for.

A promise that got weaker, whatever a caller or a site could rely on, is `major`; one that got stronger is `minor`;
everything that shows in the bytes alone is `patch`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from packager.bundle.bundle import Bundle
from packager.bundle.changes import LEVELS, Change, Difference, Level
from packager.bundle.interface_changes import compare_classes, compare_interface, compare_pipelines
from packager.canonical import JSON
from packager.contract import contract, runtime_support, runtime_tables
from packager.contract.contract import Contract
from packager.contract.runtime_tables import Table, Tables, load_shipped
from packager.formats import project_locks


def diff(before: Bundle, after: Bundle, tables: Tables = load_shipped) -> Difference:
    """Compare two bundles: contracts, weights, files, dependencies. Reads only their records."""
    old, new = (bundle.contract for bundle in (before, after))
    found = [*compare_contracts(old, new, tables), *_files(before, after), *_dependencies(before, after)]
    if before.name != after.name:
        found.append(Change("name", after.name, f"was `{before.name}`", "major"))
    return Difference(before.version, after.version, tuple(sorted(found, key=_order)))


def _order(change: Change) -> tuple[int, str, str]:
    return -LEVELS.index(change.level), change.area, change.subject


def compare_contracts(old: Contract, new: Contract, tables: Tables = load_shipped) -> list[Change]:
    """Compare two contracts."""
    return [
        *compare_interface(old, new),
        *compare_classes(old, new),
        *compare_pipelines(old, new),
        *_runtimes(old, new, tables),
        *_targets(old, new),
        *_objectives(old.slo, new.slo),
        *_graph(old.graph, new.graph),
    ]


# promises


def _runtimes(old: Contract, new: Contract, tables: Tables) -> Iterator[Change]:
    for runtime in sorted({*old.runs_on, *new.runs_on}):
        if runtime not in new.runs_on:
            yield Change("runtimes", runtime, f"is no longer promised (was {old.runs_on[runtime].versions})", "major")
        elif runtime not in old.runs_on:
            yield Change("runtimes", runtime, f"{new.runs_on[runtime].versions} is promised anew", "minor")
        else:
            yield from _range(tables(runtime), old.runs_on[runtime].versions, new.runs_on[runtime].versions)
            yield from _floors(runtime, old.runs_on[runtime].oldest, new.runs_on[runtime].oldest)


def _range(table: Table, before: str, after: str) -> Iterator[Change]:
    if before == after:
        return
    was, now = ({row.version for row in runtime_support.list_promised(table, text)} for text in (before, after))
    lost = sorted(was - now, key=runtime_tables.version_key)
    level: Level = "major" if lost else "minor" if now - was else "patch"
    detail = f"; no longer {', '.join(lost[:3])}{' …' if len(lost) > 3 else ''}" if lost else ""
    yield Change("runtimes", table.runtime, f"{before} was promised, now {after}{detail}", level)


def _floors(runtime: str, before: Mapping[str, JSON], after: Mapping[str, JSON]) -> Iterator[Change]:
    for name in ("cuda", "driver", "capability"):
        was, now = before.get(name), after.get(name)
        if was != now and now is not None:
            raised = was is None or runtime_tables.version_key(now) > runtime_tables.version_key(was)
            message = f"needs {name} {now}, needed {was or 'none'}"
            yield Change("runtimes", runtime, message, "major" if raised else "minor")


def _targets(old: Contract, new: Contract) -> Iterator[Change]:
    for name in sorted({*old.targets, *new.targets}):
        if name not in new.targets:
            yield Change("targets", name, "is gone", "major")
        elif name not in old.targets:
            yield Change("targets", name, "is new", "minor")
        else:
            before, after = old.targets[name], new.targets[name]
            yield from _tolerances(name, before.tolerance, after.tolerance)
            yield from _needs(name, before.needs, after.needs)
            if before.stability != after.stability:
                level: Level = "minor" if after.stability == contract.STABILITIES[0] else "major"
                yield Change("targets", name, f"was {before.stability}, now {after.stability}", level)
            if before.graph != old.graph or after.graph != new.graph:
                yield from (
                    Change(f"graph of {name}", c.subject, c.message, c.level) for c in _graph(before.graph, after.graph)
                )


def _tolerances(
    name: str, before: Mapping[str, Mapping[str, float]], after: Mapping[str, Mapping[str, float]]
) -> Iterator[Change]:
    for output in sorted(set(before) & set(after)):
        if before[output] != after[output]:
            looser = any(after[output][key] > before[output][key] for key in ("atol", "rtol"))
            was, now = (f"atol {b['atol']:g}, rtol {b['rtol']:g}" for b in (before[output], after[output]))
            yield Change("tolerance", f"{name}: {output}", f"was {was}; now {now}", "major" if looser else "minor")


def _needs(name: str, before: Mapping[str, JSON], after: Mapping[str, JSON]) -> Iterator[Change]:
    for feature in sorted(set(after["cpu"]) - set(before["cpu"])):
        yield Change("needs", name, f"a CPU with {feature} is needed now", "major")
    if before.get("exact") != after.get("exact"):
        words = "now depend on the processor" if after.get("exact") else "no longer depend on the processor"
        yield Change("needs", name, f"8-bit sums {words}", "major" if after.get("exact") else "minor")
    was, now = (sum(side["memory"].get(key, 0) for key in ("weights", "activations")) for side in (before, after))
    if was != now:
        yield Change("needs", name, f"about {now} bytes of memory, were {was}", "patch")


def _objectives(before: Mapping[str, float], after: Mapping[str, float]) -> Iterator[Change]:
    for name in sorted({*before, *after}):
        was, now = before.get(name), after.get(name)
        if was != now:
            better = was is None or (now is not None and (now > was if name == "at_rps" else now < was))
            message = f"was {_stated(was)}, now {_stated(now)}"
            yield Change("slo", name, message, "minor" if better else "major")


def _stated(value: float | None) -> str:
    return "not stated" if value is None else f"{value:g}"


# what only bytes and runtimes notice


def _graph(before: Mapping[str, JSON], after: Mapping[str, JSON]) -> Iterator[Change]:
    for domain in sorted({*before["opset"], *after["opset"]}):
        was, now = before["opset"].get(domain), after["opset"].get(domain)
        if was != now:
            yield Change("graph", f"opset of {domain}", f"was {was or 'not used'}, now {now or 'not used'}", "patch")
    if before["ir"] != after["ir"]:
        yield Change("graph", "IR version", f"was {before['ir']}, now {after['ir']}", "patch")
    was_used, now_used = ({use[:2] for use in runtime_support.list_uses(side)} for side in (before, after))
    for domain, operator in sorted(now_used - was_used):
        yield Change("graph", operator, f"operator is new ({domain})", "patch")
    for domain, operator in sorted(was_used - now_used):
        yield Change("graph", operator, f"operator is gone ({domain})", "patch")
    if before["parameters"] != after["parameters"]:
        message = f"{after['parameters']} parameters, were {before['parameters']}"
        yield Change("graph", "parameters", message, "patch")


_WEIGHTS = re.compile(r"(model|targets/[^/]+)/.*\.(bin|onnx|safetensors)")
_DERIVED = re.compile(r"bundle\.json|contract\.json|sbom\.cdx\.json|deps/.*")  # said by what they are made of


def _files(before: Bundle, after: Bundle) -> Iterator[Change]:
    old, new = dict(before.tree.files), dict(after.tree.files)
    changed = [path for path in sorted({*old, *new}) if old.get(path) != new.get(path)]
    weights = [path for path in changed if _WEIGHTS.fullmatch(path)]
    if weights:
        moved = sum(new[path].size for path in weights if path in new)
        total = sum(blob.size for path, blob in new.items() if _WEIGHTS.fullmatch(path))
        files = sum(bool(_WEIGHTS.fullmatch(path)) for path in new)
        message = f"{len(weights)} of {files} files differ, {moved} of {total} bytes to transfer"
        yield Change("weights", "model", message, "patch")
    for path in changed:
        if path not in weights and not _DERIVED.fullmatch(path):
            state = "is gone" if path not in new else "is new" if path not in old else "changed"
            yield Change("files", path, state, "patch")


def _dependencies(before: Bundle, after: Bundle) -> Iterator[Change]:
    for runtime in sorted({*_locks(before), *_locks(after)}):
        old, new = _pins(before, runtime), _pins(after, runtime)
        for name in sorted({*old, *new}):
            if old.get(name) != new.get(name):
                message = f"was {old.get(name, 'not there')}, now {new.get(name, 'not there')}"
                yield Change(f"dependencies of {runtime}", name, message, "patch")


def _locks(bundle: Bundle) -> set[str]:
    found = (re.fullmatch(r"deps/([^/]+)/requirements\.txt", path) for path, _ in bundle.tree)
    return {match[1] for match in found if match}


def _pins(bundle: Bundle, runtime: str) -> dict[str, str]:
    path = f"deps/{runtime}/requirements.txt"
    if bundle.tree.get(path) is None:
        return {}
    found: dict[str, list[str]] = {}
    for pin in project_locks.parse(bundle.read(path), path).pins:
        found.setdefault(pin.name, []).append(pin.version)
    return {name: " and ".join(versions) for name, versions in found.items()}  # platforms may differ

# SPDX-License-Identifier: Apache-2.0
"""What changed between two bundles, in the words of their users, and which version step that asks for.

A promise that got weaker, whatever a caller or a site could rely on, is `major`; one that got stronger is `minor`;
everything that shows in the bytes alone is `patch`. Below 1.0.0 the minor number takes the place of the major
one, as Cargo reads semantic versioning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from packager import canonical, semver
from packager.bundle.bundle import CONTRACT, Bundle, open_bundle
from packager.canonical import JSON
from packager.contract import contract, runtime_support, runtime_tables
from packager.contract.contract import Contract, Port
from packager.contract.runtime_tables import Table, Tables, load_shipped
from packager.edits import Edit
from packager.errors import MalformedError, NegativeAnswerError, UsageError
from packager.formats import project_locks
from packager.recipe.lengths import Lengths, Measured
from packager.recipe.recipe import Recipe
from packager.server.generation.settings import Generation
from packager.store.store import Store

Level: TypeAlias = Literal["none", "patch", "minor", "major"]
_LEVELS: tuple[Level, ...] = ("none", "patch", "minor", "major")
NONE = "none"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference: where, of what, in words, and the version step it needs at least."""

    area: str
    subject: str
    message: str
    level: Level

    def to_json(self) -> JSON:
        return {"area": self.area, "subject": self.subject, "message": self.message, "level": self.level}


@dataclass(frozen=True, slots=True)
class Difference:
    """All changes from one bundle to another, and whether the step between their versions is large enough."""

    before: str
    after: str
    changes: tuple[Change, ...]

    @property
    def needed(self) -> Level:
        """The smallest step of versions that the changes allow."""
        return max((change.level for change in self.changes), key=_LEVELS.index, default="none")

    @property
    def taken(self) -> Level:
        """The step between the versions that the bundles have."""
        return compare_versions(self.before, self.after)

    @property
    def ok(self) -> bool:
        """Whether the step taken is at least the one needed."""
        return _LEVELS.index(self.taken) >= _LEVELS.index(self.needed)

    @property
    def suggestion(self) -> str:
        """The lowest version that is a large enough step."""
        return next_version(self.before, self.needed)

    def to_json(self) -> JSON:
        return {
            "from": self.before,
            "to": self.after,
            "needed": self.needed,
            "taken": self.taken,
            "ok": self.ok,
            "suggestion": self.suggestion,
            "changes": [change.to_json() for change in self.changes],
        }


def diff(before: Bundle, after: Bundle, tables: Tables = load_shipped) -> Difference:
    """Compare two bundles: contracts, weights, files, dependencies. Reads only their records."""
    old, new = (bundle.contract for bundle in (before, after))
    found = [*compare_contracts(old, new, tables), *_files(before, after), *_dependencies(before, after)]
    if before.name != after.name:
        found.append(Change("name", after.name, f"was `{before.name}`", "major"))
    return Difference(before.version, after.version, tuple(sorted(found, key=_order)))


def _order(change: Change) -> tuple[int, str, str]:
    return -_LEVELS.index(change.level), change.area, change.subject


def compare_contracts(old: Contract, new: Contract, tables: Tables = load_shipped) -> list[Change]:
    """Compare two contracts."""
    return [
        *compare_interface(old, new),
        *_classes(old, new),
        *_pipelines(old, new),
        *_runtimes(old, new, tables),
        *_targets(old, new),
        *_objectives(old.slo, new.slo),
        *_graph(old.graph, new.graph),
    ]


# the interface


def compare_interface(old: Contract, new: Contract) -> Iterator[Change]:
    """Yield what callers can notice: inputs may take more, outputs may become more, nothing may go."""
    before, after = {p.name: p for p in old.inputs}, {p.name: p for p in new.inputs}
    for name in sorted({*before, *after}):
        if name not in after:
            yield Change("interface", name, "input is gone", "major")
        elif name not in before:
            yield Change("interface", name, "input is new, and callers do not send it", "major")
        else:
            yield from _input(old, new, before[name], after[name])
    yield from _generation(old, new)
    was, now = {p.name: p for p in old.outputs}, {p.name: p for p in new.outputs}
    for name in sorted({*was, *now}):
        if name not in now:
            yield Change("interface", name, "output is gone", "major")
        elif name not in was:
            yield Change("interface", name, "output is new", "minor")
        else:
            yield from _output(old, new, was[name], now[name])


def _generation(old: Contract, new: Contract) -> Iterator[Change]:
    """Yield what callers of a bundle that generates text can notice: other tokens, other conversations, less room."""
    was, now = old.generation, new.generation
    if was is None or now is None:
        if was != now:
            message = "is new: callers send texts, not tensors" if was is None else "is gone"
            yield Change("generation", "task", message, "major")
        return
    for name in ("task", "vocabulary", "bos", "eos", "tokenizer", "template"):
        before, after = getattr(was, name), getattr(now, name)
        if before != after:
            yield Change("generation", name, f"was {before or 'none'}, now {after or 'none'}", "major")
    if was.context != now.context:
        level: Level = "minor" if now.context > was.context else "major"
        yield Change("generation", "context", f"was {was.context} tokens, now {now.context}", level)
    if was.sampling != now.sampling:
        yield Change("generation", "sampling", f"the defaults were {was.sampling}, now {now.sampling}", "minor")
    yield from _pair(was, now)


def _pair(was: Generation, now: Generation) -> Iterator[Change]:
    """Yield what callers of an encoder-decoder can notice: less room for a source, other languages, other answers."""
    before, after = was.decoding, now.decoding
    if before and after:
        if before.source != after.source:
            level: Level = "minor" if after.source > before.source else "major"
            yield Change("generation", "source", f"was {before.source} tokens, now {after.source}", level)
        kept = replace(after, source=before.source, cross_bytes=before.cross_bytes)
        if kept != before:
            yield Change("generation", "decoding", "answers begin, end or are searched in another way", "minor")
    heard, hears = was.audio, now.audio
    if heard and hears:
        if gone := sorted({*heard.languages, *heard.tasks} - {*hears.languages, *hears.tasks}):
            yield Change("generation", "audio", f"{', '.join(gone)[:200]} is gone", "major")
        if hears.seconds < heard.seconds:
            yield Change("generation", "audio", f"was {heard.seconds} seconds, now {hears.seconds}", "major")


def _classes(old: Contract, new: Contract) -> Iterator[Change]:
    for name in sorted(set(old.classes) & set(new.classes)):
        if old.classes[name] != new.classes[name]:
            yield Change("interface", name, "columns are other classes, or in another order", "major")


def _pipelines(old: Contract, new: Contract) -> Iterator[Change]:
    """Yield what senders of raw inputs notice."""
    before, after = old.pipeline, new.pipeline
    if before is None and after is not None:
        yield Change("interface", "pipeline", f"raw inputs are taken: {after.task}", "minor")
    elif before is not None and after is None:
        yield Change("interface", "pipeline", "raw inputs are not taken any more", "major")
    elif before is not None and after is not None and before.task != after.task:
        yield Change("interface", "pipeline", f"answers {after.task}, was {before.task}", "major")
    elif before is not None and after is not None and before.digest != after.digest:
        yield Change("interface", "pipeline", "raw inputs become other tensors, or results other answers", "minor")


def _input(old: Contract, new: Contract, before: Port, after: Port) -> Iterator[Change]:
    yield from _dtype("input", before, after)
    if len(before.shape) != len(after.shape):
        message = f"input had {len(before.shape)} axes, now has {len(after.shape)}"
        yield Change("interface", before.name, message, "major")
        return
    for axis, (left, right) in enumerate(zip(before.shape, after.shape, strict=True)):
        was, now = _span(left, old), _span(right, new)
        if was.limit != now.limit or was.tied != now.tied:
            wider = was.limit.within(now.limit) and (now.tied is None or was.tied == now.tied)
            message = f"axis {axis} took {_taken(was)}, now takes {_taken(now)}"
            yield Change("interface", before.name, message, "minor" if wider else "major")
        if was.lengths != now.lengths and (was.lengths, now.lengths) != (was.limit, now.limit):
            narrower = not was.lengths.within(now.lengths)
            message = f"axis {axis} was measured at {was.lengths}, now at {now.lengths}"
            yield Change("measured", before.name, message + ("; less than before" if narrower else ""), "minor")
    promised = replace(before, limit=before.range) if old.format == 1 else before
    yield from _port_values(promised, after)


def _port_values(before: Port, after: Port) -> Iterator[Change]:
    """Yield what became of the values that are taken, and of those that were only measured."""
    if (before.limit, before.listed) != (after.limit, after.listed):
        level: Level = "minor" if _takes(after, before) else "major"
        yield Change("interface", before.name, f"took {_limit(before)}, now takes {_limit(after)}", level)
    if before.missing != after.missing:
        message = "a number may be missing now" if after.missing else "no number may be missing any more"
        yield Change("interface", before.name, message, "minor" if after.missing else "major")
    if before.range != after.range and (before.range, after.range) != (before.limit, after.limit):
        message = f"values were measured in {_values(before.range)}, now in {_values(after.range)}"
        yield Change("measured", before.name, message, "minor")


def _takes(after: Port, before: Port) -> bool:
    """Say whether an input takes all values that it took before."""
    if after.listed:
        return bool(before.listed) and set(before.listed) <= set(after.listed)
    if after.limit is None:
        return True
    span = (min(before.listed), max(before.listed)) if before.listed else before.limit
    return span is not None and after.limit[0] <= float(span[0]) and float(span[1]) <= after.limit[1]


def _limit(port: Port) -> str:
    if port.listed:
        return f"the values {', '.join(map(str, port.listed[:8]))}"
    return "any value" if port.limit is None else f"values in {_values(port.limit)}"


def _output(old: Contract, new: Contract, before: Port, after: Port) -> Iterator[Change]:
    yield from _dtype("output", before, after)
    left, right = ([_axis(size, side) for size in port.shape] for port, side in ((before, old), (after, new)))
    if left != right:
        yield Change("interface", before.name, f"output had the shape {left}, now {right}", "major")


def _dtype(kind: str, before: Port, after: Port) -> Iterator[Change]:
    if before.dtype != after.dtype:
        yield Change("interface", before.name, f"{kind} was {before.dtype}, now is {after.dtype}", "major")


def _span(size: int | str, of: Contract) -> Measured:
    one = Lengths(size, size) if isinstance(size, int) else Lengths()
    return Measured(one, one) if isinstance(size, int) else of.dimensions.get(size, Measured(one, one))


def _taken(span: Measured) -> str:
    return f"{span.limit}" + (f", as long as {span.tied[1]}" if span.tied else "")


def _axis(size: int | str, of: Contract) -> str:
    """Name an axis of an output by what it follows: an input's axis has another name after a harmless renaming."""
    if isinstance(size, int):
        return str(size)
    places = [f"{p.name}[{n}]" for p in of.inputs for n, axis in enumerate(p.shape) if axis == size]
    return min(places, default="*")


def _values(span: tuple[float, float] | None) -> str:
    return "no stated range" if span is None else f"[{span[0]:g}, {span[1]:g}]"


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


# versions


def compare_versions(before: str, after: str) -> Level:
    """Return how large the step between two semantic versions is; `none` for a step back or none at all."""
    if semver.precedence_key(after) <= semver.precedence_key(before):
        return "none"
    if semver.is_prerelease(before):
        return "major"  # a pre-release promises no stable interface
    old, new = semver.read_numbers(before), semver.read_numbers(after)
    position = next(index for index in range(3) if old[index] != new[index])
    leading = next((index for index in range(3) if old[index]), 2)  # 0.y.z: y is what breaks; 0.0.z: z is
    return _LEVELS[3 - max(0, position - leading)]


def next_version(before: str, level: Level) -> str:
    """Return the lowest version that is a step of `level` from `before`."""
    major, minor, patch = semver.read_numbers(before)
    release = f"{major}.{minor}.{patch}"  # the next one only after a pre-release
    candidates = [before, release, f"{major}.{minor}.{patch + 1}", f"{major}.{minor + 1}.0", f"{major + 1}.0.0"]
    return next(v for v in candidates if _LEVELS.index(compare_versions(before, v)) >= _LEVELS.index(level))


# the step a build takes


def check_step(recipe: Recipe, derived: JSON, store: Store, base: Path) -> None:
    """Raise NegativeAnswer if the interface broke since the release before without a large enough version step.

    That release is what `previous` names, else the newest older version of the same name in the local store. Raises
    UsageError when its contract is of a format that this program does not read.
    """
    try:
        before = release_before(recipe, store, base)
    except MalformedError as error:
        if error.subject != CONTRACT:
            raise
        raise UsageError(
            f"cannot compare with the previous release of `{recipe.name}`: {error.message}",
            hint="name another release under `previous` in the recipe, or write `previous: none`",
            edits=[Edit(("previous",), NONE)],
        ) from None
    if before is None:
        return
    old, new = before.contract, contract.parse(canonical.dump(derived))
    broken = [change for change in compare_interface(old, new) if change.level == "major"]
    if not broken or compare_versions(before.version, recipe.version) == "major":
        return
    if recipe.previous is None and (unlike := _unlike(old, new)):
        raise NegativeAnswerError(
            f"`{before.name}:{before.version}` in the store is another model: it takes {unlike}",
            hint=f"give this one a `name` of its own, or, if `{recipe.name}` is this one now, write `previous: none`",
            edits=[Edit(("previous",), NONE, consents=True)],
        )
    raise NegativeAnswerError(
        f"`{recipe.name}:{recipe.version}` breaks the interface of {before.version}: `{broken[0].subject}` "
        f"{broken[0].message}",
        hint=f"release it as {next_version(before.version, 'major')}; or, if {before.version} is not in use, "
        "write `previous: none` in the recipe",
        edits=[Edit(("version",), next_version(before.version, "major"), consents=True)],
    )


def _unlike(old: Contract, new: Contract) -> str:
    """Return what another model takes where it has no input in common with this one, else nothing."""
    names = {port.name for port in old.inputs}
    return "" if names & {port.name for port in new.inputs} else ", ".join(f"`{name:.63}`" for name in sorted(names))


def release_before(recipe: Recipe, store: Store, base: Path) -> Bundle | None:
    """Return the release that `previous` names, else the newest older one of that name in the store; None if none."""
    named = recipe.previous
    if named == NONE:
        return None
    if named is None:
        limit = semver.precedence_key(recipe.version)
        older = [v for name, v in store.bundles() if name == recipe.name and semver.precedence_key(v) < limit]
        newest = max(older, key=semver.precedence_key, default=None)
        return open_bundle(f"{recipe.name}:{newest}", lambda: store) if newest else None
    if re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+\S*", named):
        return open_bundle(f"{recipe.name}:{named}", lambda: store)
    found = open_bundle(str(base / named) if (base / named).exists() else named, lambda: store)
    if found.name != recipe.name:
        raise UsageError(f"`previous` names `{found.name}`, expected a release of `{recipe.name}`")
    return found

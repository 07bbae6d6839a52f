# SPDX-License-Identifier: Apache-2.0
"""Lock the serving dependencies: for every runtime, platform and Python the wheels, with hashes and metadata.

An engine (`packager.lockers`) resolves each platform by itself; pip then reads the metadata of what was chosen, once
per distribution. The answer depends on what the index holds, and on nothing else of where or when this runs: names,
versions, file names, hashes and metadata are recorded, no time and no tool.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from packager.canonical import JSON
from packager.errors import IntegrityError, UsageError
from packager.events import Note, OnEvent, Warned, report_duration
from packager.formats import index_addresses, platforms
from packager.formats.index_addresses import redact_addresses
from packager.formats.platforms import Platform
from packager.formats.project_locks import OwnLock
from packager.formats.wheel_locks import Dependencies, DistributionMetadata, Wheel
from packager.lock import lockers
from packager.lock.lockers import NoSolutionError, Resolution, ResolveRequest, _conflict, _pip

Remember = Callable[[JSON, Callable[[], JSON]], JSON]
"""A cache of results: a key, and how to compute what is not there."""
_JOBS = 4  # processes, which mostly wait for the index


@dataclass(frozen=True, slots=True)
class LockRequest:
    """What to lock: runtime to PEP 508 lines; the platforms that must be locked, and those that are where wheels
    exist; the lock file that the project already has; the engine's name.
    """

    runtimes: Mapping[str, tuple[str, ...]]
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    own: OwnLock | None = None
    engine: str = lockers.DEFAULT


def lock(request: LockRequest, environment: Mapping[str, str], remember: Remember, on_event: OnEvent) -> Dependencies:
    """Resolve every runtime for every platform, and describe what was chosen.

    Network. Raises UsageError when the requirements contradict each other or no wheels exist, SourceError when the
    index cannot be reached, IntegrityError when a file is not the one that the project's own lock accepts.
    """
    for runtime in request.runtimes:
        _check_claims(runtime, request)
    names = tuple(dict.fromkeys((*request.required, *request.optional)))
    tasks = [(runtime, name) for runtime in request.runtimes for name in names]
    label = f"lock {', '.join(request.runtimes)} for {len(names)} platforms"
    with report_duration(label, on_event), ThreadPoolExecutor(_JOBS) as pool:
        answers = list(pool.map(lambda task: _resolve(task[0], task[1], request, environment), tasks))
    found = dict(zip(tasks, answers, strict=True))
    chosen = {runtime: _choose_platforms(runtime, found, request, on_event) for runtime in request.runtimes}
    own = request.own.indexes if request.own else ()
    about = _describe(chosen, own, environment, remember)
    requirements = {runtime: tuple(sorted(lines)) for runtime, lines in request.runtimes.items()}
    indexes = _record_indexes(found, chosen, own, environment, on_event)
    return Dependencies(requirements, chosen, about, indexes, _list_yanked(found, chosen, on_event))


def _list_yanked(
    answers: Mapping[tuple[str, str], Resolution | NoSolutionError],
    chosen: Mapping[str, Collection[str]],
    on_event: OnEvent,
) -> dict[str, str]:
    """Return what was withdrawn by its publisher and is locked all the same, because an exact version requires it."""
    found = {
        pin: redact_addresses(reason)
        for (runtime, name), answer in answers.items()
        if isinstance(answer, Resolution) and name in chosen[runtime]
        for pin, reason in answer.yanked.items()
    }
    for pin, reason in sorted(found.items()):
        why = f": {reason}" if reason else ""
        on_event(Warned(f"`{pin}` was withdrawn by its publisher (yanked){why}; lock another version"))
    return dict(sorted(found.items()))


def _record_indexes(
    answers: Mapping[tuple[str, str], Resolution | NoSolutionError],
    chosen: Mapping[str, Collection[str]],
    own: Sequence[str],
    environment: Mapping[str, str],
    on_event: OnEvent,
) -> tuple[str, ...]:
    """Return what may be recorded of the indexes that gave a wheel; say which have no name to be recorded by."""
    files = [
        address
        for (runtime, name), answer in answers.items()
        if isinstance(answer, Resolution) and name in chosen[runtime]
        for address in answer.files
    ]
    found = index_addresses.list_used(files, own, environment)
    for index in found:
        if index.label is None:
            where, remedy = redact_addresses(index.address), "`UV_INDEX=NAME=ADDRESS` gives it a name that is"
            on_event(Note(f"wheels came from an index of the environment, {where}, which is not recorded; {remedy}"))
    return tuple(sorted({index.label for index in found if index.label}))


def _resolve(
    runtime: str, name: str, request: LockRequest, environment: Mapping[str, str]
) -> Resolution | NoSolutionError:
    own = request.own
    constraints = tuple(pin.line for pin in own.pins) if own else ()
    lines = ResolveRequest(tuple(sorted(request.runtimes[runtime])), constraints, own.indexes if own else ())
    try:
        answer = lockers.load(request.engine).resolve(lines, platforms.parse(name), environment)
    except NoSolutionError as no:
        return no
    for wheel in answer.wheels if own else ():
        _check_hash(wheel, own)
    return answer


def _check_hash(wheel: Wheel, own: OwnLock | None) -> None:
    accepted = own.hashes(wheel.name, wheel.version) if own else frozenset()
    if own and accepted and wheel.sha256 not in accepted:
        raise IntegrityError(
            f"`{wheel.file}` is not a file that `{own.file}` accepts: got sha256:{wheel.sha256}",
            subject=wheel.file,
            hint="the index serves another file of that version, or the lock names no wheel for this platform",
        )


def _choose_platforms(
    runtime: str,
    answers: Mapping[tuple[str, str], Resolution | NoSolutionError],
    request: LockRequest,
    on_event: OnEvent,
) -> dict[str, tuple[Wheel, ...]]:
    """Return the platforms that have wheels. Raises UsageError if a required one, or every one, has none."""
    found: dict[str, tuple[Wheel, ...]] = {}
    failed: dict[str, NoSolutionError] = {}
    for (owner, name), answer in answers.items():
        if owner == runtime:
            if isinstance(answer, NoSolutionError):
                failed[name] = answer
            else:
                found[name] = answer.wheels
    for name, no in failed.items():
        if name in request.required or not found:
            raise _no_solution_error(runtime, name, no, request)
        on_event(Note(f"{runtime} is not locked for {name}: it has no wheels there"))
    return dict(sorted(found.items()))


def _claims(runtime: str, request: LockRequest) -> list[_conflict.Claim]:
    names = {canonicalize_name(Requirement(line).name) for line in request.runtimes[runtime]}
    claims = _conflict.own_requirements(request.runtimes[runtime], f"runtime `{runtime}` of the recipe")
    if request.own:
        listed = sorted(request.own.pins, key=lambda pin: pin.name not in names)
        claims += _conflict.own_requirements(
            [pin.line for pin in listed if pin.marker is None], f"`{request.own.file}`"
        )
    return claims


def _check_claims(runtime: str, request: LockRequest) -> None:
    """Find a contradiction between the recipe and the project's own lock before an index is contacted."""
    if pair := _conflict.find(_claims(runtime, request)):
        raise _conflict_error(runtime, pair, request)


def _no_solution_error(runtime: str, platform: str, no: NoSolutionError, request: LockRequest) -> UsageError:
    claims = _claims(runtime, request)
    if pair := _conflict.find([*claims, *_conflict.claims_in(no.text, claims)]):
        return _conflict_error(runtime, pair, request)
    return UsageError(
        f"runtime `{runtime}` cannot be locked for `{platform}`: {_one_paragraph(no.text)}",
        hint="remove that platform from `platforms` and `vendor`, or widen the range in `runs-on`",
    )


def _conflict_error(runtime: str, pair: tuple[_conflict.Claim, _conflict.Claim], request: LockRequest) -> UsageError:
    one, other = pair
    own = request.own is not None and any(request.own.file in claim.origin for claim in pair)
    remedy = f"change `{one.requirement.name}` in `{request.own.file}`, or " if own and request.own else ""
    return UsageError(
        f"runtime `{runtime}` cannot be locked: {one.text} against {other.text}",
        hint=f"try: {remedy}choose a range in `runs-on: {{{runtime}: …}}` that accepts the same `{other.name}`",
    )


def _one_paragraph(text: str) -> str:
    """Return an engine's explanation as one line: uv's causes without their drawing, or the errors that pip names."""
    rows = " ".join(row.strip(" ×╰─▶│|") for row in text.splitlines())
    causes = re.sub(r"\s+", " ", rows).partition("cause: ")[2].partition(" hint:")[0]
    return causes[:500] or _pip.find_reason(text)


def _describe(
    chosen: Mapping[str, Mapping[str, Sequence[Wheel]]],
    own: Sequence[str],
    environment: Mapping[str, str],
    remember: Remember,
) -> dict[str, DistributionMetadata]:
    """Read each distribution's metadata once: wheels of one version are taken to agree, as resolvers take them."""
    found: dict[str, DistributionMetadata] = {}
    for sets in chosen.values():
        for name, wheels in sets.items():
            unknown = [wheel for wheel in wheels if wheel.pin not in found]
            if unknown:
                found |= _read(unknown, platforms.parse(name), own, environment, remember)
    return dict(sorted(found.items()))


def _read(
    wheels: Sequence[Wheel],
    platform: Platform,
    own: Sequence[str],
    environment: Mapping[str, str],
    remember: Remember,
) -> dict[str, DistributionMetadata]:
    lines = [f"{wheel.pin} --hash=sha256:{wheel.sha256}" for wheel in wheels]

    def ask() -> JSON:
        rows = _pip.read_report(lines, platform, own, environment)
        return {row.wheel.pin: row.about.to_json() for row in rows}

    answer = remember({"platform": platform.name, "wheels": lines}, ask)
    return {wheel.pin: DistributionMetadata.from_json(answer[wheel.pin]) for wheel in wheels}

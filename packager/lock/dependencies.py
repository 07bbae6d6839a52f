# SPDX-License-Identifier: Apache-2.0
"""Lock what runtimes need to serve: for every runtime, platform and Python the wheels, with hashes and metadata.

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
from packager.events import Note, OnEvent, Warned, timed
from packager.formats import index_addresses, platforms
from packager.formats.index_addresses import redact
from packager.formats.platforms import Platform
from packager.formats.project_locks import OwnLock
from packager.formats.wheel_locks import Dependencies, DistributionMetadata, Wheel
from packager.lock import lockers
from packager.lock.lockers import Answer, NoSolution, Question, _conflict, _pip

Remember = Callable[[JSON, Callable[[], JSON]], JSON]
"""Answers from memory what was asked before: a key and how to find the answer."""
_JOBS = 4  # processes, which mostly wait for the index


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to lock: runtime to PEP 508 lines; the platforms that must be locked, and those that are where wheels
    exist; the lock file that the project already has; the engine's name.
    """

    runtimes: Mapping[str, tuple[str, ...]]
    required: tuple[str, ...] = ()
    welcome: tuple[str, ...] = ()
    own: OwnLock | None = None
    engine: str = lockers.DEFAULT


def lock(wanted: Wanted, environment: Mapping[str, str], remember: Remember, on_event: OnEvent) -> Dependencies:
    """Resolve every runtime for every platform, and describe what was chosen.

    Network. Raises UsageError when the requirements contradict each other or no wheels exist, SourceError when the
    index cannot be reached, IntegrityError when a file is not the one that the project's own lock accepts.
    """
    for runtime in wanted.runtimes:
        _check_claims(runtime, wanted)
    names = tuple(dict.fromkeys((*wanted.required, *wanted.welcome)))
    tasks = [(runtime, name) for runtime in wanted.runtimes for name in names]
    label = f"lock {', '.join(wanted.runtimes)} for {len(names)} platforms"
    with timed(label, on_event), ThreadPoolExecutor(_JOBS) as pool:
        answers = list(pool.map(lambda task: _resolve(task[0], task[1], wanted, environment), tasks))
    found = dict(zip(tasks, answers, strict=True))
    chosen = {runtime: _chosen(runtime, found, wanted, on_event) for runtime in wanted.runtimes}
    own = wanted.own.indexes if wanted.own else ()
    about = _describe(chosen, own, environment, remember)
    requirements = {runtime: tuple(sorted(lines)) for runtime, lines in wanted.runtimes.items()}
    asked = _asked(found, chosen, own, environment, on_event)
    return Dependencies(requirements, chosen, about, asked, _yanked(found, chosen, on_event))


def _yanked(
    answers: Mapping[tuple[str, str], Answer | NoSolution], chosen: Mapping[str, Collection[str]], on_event: OnEvent
) -> dict[str, str]:
    """Return what was withdrawn by its publisher and is locked all the same, because an exact version asks for it."""
    found = {
        pin: redact(reason)
        for (runtime, name), answer in answers.items()
        if isinstance(answer, Answer) and name in chosen[runtime]
        for pin, reason in answer.yanked.items()
    }
    for pin, reason in sorted(found.items()):
        why = f": {reason}" if reason else ""
        on_event(Warned(f"`{pin}` was withdrawn by its publisher (yanked){why}; lock another version"))
    return dict(sorted(found.items()))


def _asked(
    answers: Mapping[tuple[str, str], Answer | NoSolution],
    chosen: Mapping[str, Collection[str]],
    own: Sequence[str],
    environment: Mapping[str, str],
    on_event: OnEvent,
) -> tuple[str, ...]:
    """Return what may be recorded of the indexes that gave a wheel; say which have no name to be recorded by."""
    files = [
        address
        for (runtime, name), answer in answers.items()
        if isinstance(answer, Answer) and name in chosen[runtime]
        for address in answer.files
    ]
    found = index_addresses.used(files, own, environment)
    for index in found:
        if index.label is None:
            place, remedy = redact(index.address), "`UV_INDEX=NAME=ADDRESS` gives it a name that is"
            on_event(Note(f"wheels came from an index of the environment, {place}, which is not recorded; {remedy}"))
    return tuple(sorted({index.label for index in found if index.label}))


def _resolve(runtime: str, name: str, wanted: Wanted, environment: Mapping[str, str]) -> Answer | NoSolution:
    own = wanted.own
    constraints = tuple(pin.line for pin in own.pins) if own else ()
    question = Question(tuple(sorted(wanted.runtimes[runtime])), constraints, own.indexes if own else ())
    try:
        answer = lockers.load(wanted.engine).resolve(question, platforms.parse(name), environment)
    except NoSolution as no:
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


def _chosen(
    runtime: str, answers: Mapping[tuple[str, str], Answer | NoSolution], wanted: Wanted, on_event: OnEvent
) -> dict[str, tuple[Wheel, ...]]:
    """Return the platforms that have wheels. Raises UsageError if a required one, or every one, has none."""
    found: dict[str, tuple[Wheel, ...]] = {}
    failed: dict[str, NoSolution] = {}
    for (asked, name), answer in answers.items():
        if asked == runtime:
            if isinstance(answer, NoSolution):
                failed[name] = answer
            else:
                found[name] = answer.wheels
    for name, no in failed.items():
        if name in wanted.required or not found:
            raise _explained(runtime, name, no, wanted)
        on_event(Note(f"{runtime} is not locked for {name}: it has no wheels there"))
    return dict(sorted(found.items()))


def _claims(runtime: str, wanted: Wanted) -> list[_conflict.Claim]:
    names = {canonicalize_name(Requirement(line).name) for line in wanted.runtimes[runtime]}
    claims = _conflict.ours(wanted.runtimes[runtime], f"runtime `{runtime}` of the recipe")
    if wanted.own:
        listed = sorted(wanted.own.pins, key=lambda pin: pin.name not in names)
        claims += _conflict.ours([pin.line for pin in listed if pin.marker is None], f"`{wanted.own.file}`")
    return claims


def _check_claims(runtime: str, wanted: Wanted) -> None:
    """Find a contradiction between the recipe and the project's own lock before anything is asked of an index."""
    if pair := _conflict.find(_claims(runtime, wanted)):
        raise _conflict_error(runtime, pair, wanted)


def _explained(runtime: str, platform: str, no: NoSolution, wanted: Wanted) -> UsageError:
    claims = _claims(runtime, wanted)
    if pair := _conflict.find([*claims, *_conflict.claims_in(no.text, claims)]):
        return _conflict_error(runtime, pair, wanted)
    return UsageError(
        f"runtime `{runtime}` cannot be locked for `{platform}`: {_one_paragraph(no.text)}",
        hint="remove that platform from `platforms` and `vendor`, or widen the range in `runs-on`",
    )


def _conflict_error(runtime: str, pair: tuple[_conflict.Claim, _conflict.Claim], wanted: Wanted) -> UsageError:
    one, other = pair
    own = wanted.own is not None and any(wanted.own.file in claim.origin for claim in pair)
    remedy = f"change `{one.requirement.name}` in `{wanted.own.file}`, or " if own and wanted.own else ""
    return UsageError(
        f"runtime `{runtime}` cannot be locked: {one.text} against {other.text}",
        hint=f"try: {remedy}choose a range in `runs-on: {{{runtime}: …}}` that accepts the same `{other.name}`",
    )


def _one_paragraph(text: str) -> str:
    """Return an engine's explanation as one line: uv's causes without their drawing, or the errors that pip names."""
    rows = " ".join(row.strip(" ×╰─▶│|") for row in text.splitlines())
    causes = re.sub(r"\s+", " ", rows).partition("cause: ")[2].partition(" hint:")[0]
    return causes[:500] or _pip.reason(text)


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
        rows = _pip.report(lines, platform, own, environment)
        return {row.wheel.pin: row.about.to_json() for row in rows}

    answer = remember({"platform": platform.name, "wheels": lines}, ask)
    return {wheel.pin: DistributionMetadata.from_json(answer[wheel.pin]) for wheel in wheels}

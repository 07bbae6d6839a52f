# SPDX-License-Identifier: Apache-2.0
"""Make knowledge of runtimes: measure a version in a separate environment, and import signed tables.

In a site's folder `<runtime>.json` holds the last signed table it took, `<runtime>.measured.json` what it measured
itself, which wins. A signed table's serial may only rise: an older one cannot be played again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packager import canonical
from packager.canonical import JSON
from packager.contract import runtime_tables
from packager.errors import IntegrityError, NegativeAnswerError, StepError, UsageError
from packager.events import OnEvent, ignore
from packager.files import write_atomically
from packager.formats import dsse, intoto
from packager.lock import environments, npm_environments
from packager.runtime import load_prober
from packager.trust.keys import PublicKey
from packager.trust.signers import Signer

PREDICATE = "urn:packager:knowledge:v1"
PYTHONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14")
_NPM = "npm:"  # what is installed from npm instead of the package index


def make_environment(
    runtime: str, version: str, python: str, cache: Path, on_event: OnEvent = ignore
) -> tuple[Path, JSON]:
    """Return the interpreter of an environment in which a version works, and the facts that the runtime reports.

    Network, unless cached. Raises SourceError when it cannot be installed, StepError when it works in no form.
    """
    program = load_prober(runtime)
    for wanted in program.candidates(version):
        if wanted[0].startswith(_NPM):
            interpreter = npm_environments.ensure_packages(wanted[0].removeprefix(_NPM), cache, on_event)
        else:
            interpreter = environments.ensure_environment(wanted, python, cache, on_event)
        answers = program.about(interpreter)
        if answers is not None:
            return interpreter, answers
    raise StepError(
        f"{runtime} {version} does not run the most trivial graph on this host",
        hint=f"try another interpreter with `--python`; this was {python}",
    )


def probe(runtime: str, version: str, python: str, cache: Path, on_event: OnEvent = ignore) -> JSON:
    """Measure a version and return a table with its one row and its kernels."""
    program = load_prober(runtime)
    interpreter, answers = make_environment(runtime, version, python, cache, on_event)
    limits, outcomes = program.measure(interpreter, on_event)
    pythons = list_pythons(program.candidates(version)[0]) or tuple(answers.get("python", "").split())
    found: JSON = program.table(answers["version"], answers, limits, outcomes, pythons)
    return found


def list_pythons(wanted: Sequence[str]) -> tuple[str, ...]:
    """Return which versions of Python there are wheels for; none for packages of npm. Network."""
    return () if wanted[0].startswith(_NPM) else environments.pythons_for(wanted, PYTHONS)


@dataclass(frozen=True, slots=True)
class Probed:
    """A measured version: the table with its one row and its kernels, as JSON, and the file that keeps it here."""

    table: Mapping[str, JSON]
    path: Path

    @property
    def version(self) -> str:
        """The version that was measured."""
        (version,) = self.table["versions"]
        return str(version)

    @property
    def row(self) -> Mapping[str, JSON]:
        """What was found of it: opset, IR version, Python, and more."""
        row: Mapping[str, JSON] = self.table["versions"][self.version]
        return row

    @property
    def counts(self) -> dict[str, int]:
        """How many combinations of operator and types work (`o`), do not load (`x`), err (`w`), or are open (`-`)."""
        counts = {"o": 0, "x": 0, "w": 0, "-": 0}
        for operators in self.table["kernels"]["operators"].values():
            for definitions in operators.values():
                for patterns in definitions.values():
                    for pattern, rows in patterns.items():
                        counts[pattern] += len(rows)
        return counts


def read_file(path: Path) -> bytes:
    """Read the file of a table, signed or not; larger ones than tables may be are cut. Raises UsageError."""
    try:
        with path.open("rb") as file:
            return file.read(2 * runtime_tables.MAX_TABLE)
    except OSError as error:
        raise UsageError(f"cannot read `{path}`: {error.strerror}") from None


def keep(table: JSON, folder: Path) -> Path:
    """Lay a measured table over those this site measured before; return the file."""
    path = folder / f"{table['runtime']}.measured.json"
    rows: dict[str, JSON] = {}
    kernels: list[JSON] = [table["kernels"]]
    if path.is_file():
        runtime_tables.parse(path.read_bytes(), str(path))
        before = canonical.load(path.read_bytes(), limit=runtime_tables.MAX_TABLE)
        rows = before["versions"]
        kernels += before["kernels"]
    seen: set[str] = set()
    kept = []
    for part in kernels:  # one version, one set of kernels: the newest
        if not seen & set(part["over"]):
            kept.append(part)
        seen |= set(part["over"])
    value = {**table, "versions": {**rows, **table["versions"]}, "kernels": kept}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, canonical.dump(value))
    return path


def sign(data: bytes, subject: str, signer: Signer) -> bytes:
    """Return a table signed for `update`: a Sigstore bundle around an in-toto statement that holds it."""
    table = runtime_tables.parse(data, subject)
    value = canonical.load(data, limit=runtime_tables.MAX_TABLE)
    digest = canonical.sha256(canonical.dump(value)).removeprefix("sha256:")
    statement = intoto.Statement(PREDICATE, table.runtime, digest, value)
    signed: bytes = signer.sign(statement.to_bytes()).to_bytes()
    return signed


def update(data: bytes, subject: str, keys: Sequence[PublicKey], folder: Path) -> runtime_tables.Table:
    """Take a signed table into `folder`; return it.

    Raises NegativeAnswerError when no trusted key signed it or its serial does not rise, IntegrityError when it is
    broken.
    """
    try:
        envelope = dsse.parse(data)
    except ValueError as error:
        raise IntegrityError(
            f"`{subject}` is no signed table: {error}", subject=subject, hint="make one with `packager runtimes sign`"
        ) from None
    if not any(key.verifies(envelope) for key in keys):
        raise NegativeAnswerError(
            f"`{subject}` is not signed by a trusted key", hint="give the publisher's key with `--key`"
        )
    content = canonical.dump(_statement(envelope.payload, subject).predicate)
    table = runtime_tables.parse(content, subject)
    known = _serial(table.runtime, folder)
    if table.serial <= known:
        raise NegativeAnswerError(
            f"`{subject}` has serial {table.serial}, expected more than {known}",
            hint="this site has a newer table already; get the latest from the publisher",
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{table.runtime}.json", content)
    return table


def _statement(payload: bytes, subject: str) -> intoto.Statement:
    try:
        statement = intoto.parse(payload, limit=dsse.MAX_BUNDLE)
    except ValueError as error:
        raise IntegrityError(f"`{subject}` holds no statement: {error}", subject=subject) from None
    digest = canonical.sha256(canonical.dump(statement.predicate)).removeprefix("sha256:")
    if statement.predicate_type != PREDICATE or statement.subject_sha256 != digest:
        raise IntegrityError(f"`{subject}` is a statement about something else", subject=subject)
    return statement


def _serial(runtime: str, folder: Path) -> int:
    path = folder / f"{runtime}.json"
    taken = runtime_tables.parse(path.read_bytes(), str(path)).serial if path.is_file() else 0
    return max(taken, runtime_tables.load_shipped(runtime).serial)

# SPDX-License-Identifier: Apache-2.0
"""pip as the reader of indexes: the file of a pin for a platform, its metadata, and its bytes.

Nothing is built or run: `--only-binary :all:` and `--no-deps` leave only the choice of a file and its download. Where
the index serves metadata beside the wheels (PEP 658), no wheel is downloaded to read it.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.utils import canonicalize_name

from packager.canonical import JSON
from packager.errors import MissingToolError, SourceError, WrongContentError
from packager.formats import licences
from packager.formats.index_addresses import REFUSED, find_public, find_refusal, redact_addresses, share_indexes
from packager.formats.platforms import Platform
from packager.formats.wheel_locks import DistributionMetadata, Wheel

_QUIET = ("--quiet", "--disable-pip-version-check", "--no-input", "--no-color")


@dataclass(frozen=True, slots=True)
class Row:
    """A wheel, what its metadata says, where the index has it, and whether its publisher withdrew it."""

    wheel: Wheel
    about: DistributionMetadata
    address: str = field(repr=False)
    yanked: bool


def read_report(
    lines: Iterable[str], platform: Platform, indexes: Sequence[str], environment: Mapping[str, str]
) -> list[Row]:
    """Return the wheel that installs on `platform` for each pin, with what the index and its metadata say, sorted.

    `lines` are exact pins, with `--hash` or without. Raises SourceError.
    """
    with tempfile.TemporaryDirectory(prefix="packager-pip-") as folder:
        answer = Path(folder, "report.json")
        command = [
            "install",
            "--dry-run",
            "--ignore-installed",
            "--target",
            str(Path(folder, "none")),
            "--report",
            str(answer),
        ]
        run(command, lines, platform, indexes, environment, Path(folder))
        found = json.loads(answer.read_bytes())["install"]
    rows = (
        Row(_wheel(item, indexes, environment), _about(item["metadata"]), _address(item), bool(item.get("is_yanked")))
        for item in found
    )
    return sorted(rows, key=lambda row: row.wheel)


def download(
    wheels: Sequence[Wheel], platform: Platform, indexes: Sequence[str], environment: Mapping[str, str], out: Path
) -> None:
    """Put these wheels into `out`, each checked against its hash by pip. Raises SourceError."""
    lines = [f"{wheel.pin} --hash=sha256:{wheel.sha256}" for wheel in wheels]
    with tempfile.TemporaryDirectory(prefix="packager-pip-") as folder:
        command = ["download", "--dest", str(out), "--require-hashes"]
        run(command, lines, platform, indexes, environment, Path(folder))


def run(
    command: Sequence[str],
    lines: Iterable[str],
    platform: Platform,
    indexes: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
) -> None:
    """Run pip for another platform than this one, in `folder`."""
    arguments = _command(command, lines, platform, indexes, folder)
    done = subprocess.run(
        arguments, capture_output=True, text=True, env=share_indexes(environment), cwd=folder, check=False
    )
    if done.returncode:
        _check_content(done.stderr)
        if refused := find_refusal(done.stderr) or _silent_refusal(arguments, environment, folder):
            raise SourceError(f"the package index at {refused} refuses the login", hint=f"look at {REFUSED}")
        raise SourceError(
            f"the package index does not deliver: {find_reason(done.stderr)}",
            hint="check the index (PIP_INDEX_URL, proxy); if a file was withdrawn there, run `packager lock`",
        )


def _command(
    command: Sequence[str], lines: Iterable[str], platform: Platform, indexes: Sequence[str], folder: Path
) -> list[str]:
    if importlib.util.find_spec("pip") is None:
        raise MissingToolError("pip", "lock")
    wanted = folder / "wanted.txt"
    wanted.write_text("".join(f"{line}\n" for line in lines))
    arguments = [
        sys.executable,
        "-P",
        "-m",
        "pip",
        *command,
        *_QUIET,
        "--no-deps",
        "--only-binary",
        ":all:",
        "--implementation",
        "cp",
        "--python-version",
        platform.python_version,
        "-r",
        str(wanted),
    ]
    for system in platform.systems:
        arguments += ["--platform", system]
    for address in indexes:
        arguments += ["--extra-index-url", address]
    return arguments


def _check_content(stderr: str) -> None:
    """Raise WrongContent for the first file that is another one than was locked; pip names it among many words."""
    pattern = r"^\s+(\S+)(?: from (\S+))?[^\n]*:\n\s+Expected sha256 (\w+)\n(?:\s+Expected\s+or \w+\n)*\s+Got\s+(\w+)"
    if found := re.search(pattern, stderr, re.MULTILINE):
        pin, address, expected, got = found.groups()
        file = file_name(address or "") or pin
        raise WrongContentError(
            f"`{file}` is not what was locked: expected sha256:{expected}, got sha256:{got}",
            subject=file,
            hint="the index has another file of that version than before: see its publisher, then `packager lock`",
        )


def refused_by(
    lines: Iterable[str], platform: Platform, indexes: Sequence[str], environment: Mapping[str, str]
) -> str | None:
    """Return which index refuses a login when `lines` are requested, None if none does."""
    with tempfile.TemporaryDirectory(prefix="packager-pip-") as folder:
        command = _command(["download", "--dest", folder], lines, platform, indexes, Path(folder))
        return _silent_refusal(command, environment, Path(folder))


def _silent_refusal(arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> str | None:
    """Run again verbosely: pip goes on without an index that refuses it, and reports that only then."""
    command = [word for word in arguments if word != "--quiet"] + ["-vv", "--retries", "0"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=share_indexes(environment), cwd=folder, check=False
    )
    return find_refusal(done.stdout + done.stderr)


def find_reason(stderr: str) -> str:
    """Return what pip says went wrong, as one line."""
    errors = [row.strip().removeprefix("ERROR: ") for row in stderr.splitlines() if row.strip().startswith("ERROR")]
    return (
        redact_addresses(re.sub(r"\s+", " ", " ".join(errors or stderr.splitlines()[-1:])))[:500] or "no reason given"
    )


def file_name(address: str) -> str:
    """Return the name of the file at an address or path."""
    return unquote(urlsplit(address).path).rpartition("/")[2]


def _address(item: JSON) -> str:
    return str(item["download_info"]["url"])


def _wheel(item: JSON, indexes: Sequence[str], environment: Mapping[str, str]) -> Wheel:
    address, metadata = _address(item), item["metadata"]
    digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
    name = canonicalize_name(metadata["name"])
    return Wheel(name, metadata["version"], file_name(address), digest, find_public(address, indexes, environment))


def _about(metadata: JSON) -> DistributionMetadata:
    expression, words = licences.from_metadata(
        metadata.get("license_expression"), metadata.get("license"), metadata.get("classifier", [])
    )
    author = metadata.get("author") or metadata.get("maintainer") or _names(metadata)
    return DistributionMetadata(
        license=expression,
        license_text=words,
        author=author[:200] if author else None,
        summary=metadata["summary"][:500] if metadata.get("summary") else None,
        homepage=_homepage(metadata),
        requires=tuple(sorted(metadata.get("requires_dist", []))),
    )


def _names(metadata: JSON) -> str | None:
    """Return the names in the address fields: `Ada <ada@example.org>` is Ada; a bare address stays out."""
    text = metadata.get("author_email") or metadata.get("maintainer_email") or ""
    names = [re.sub(r"<[^>]*>", "", part).strip(' "') for part in text.split(",")]
    return ", ".join(name for name in names if name and "@" not in name) or None


def _homepage(metadata: JSON) -> str | None:
    """Return the address that the metadata calls its home page or source; other pages say less."""
    rows = (row.partition(",") for row in metadata.get("project_url", []))
    named = {re.sub(r"[^a-z]", "", label.lower()): address.strip() for label, _, address in rows}
    labels = ("homepage", "home", "source", "sourcecode", "repository", "github", "documentation")
    addresses = [metadata.get("home_page") or "", *(named.get(label, "") for label in labels), *named.values()]
    return next((address for address in addresses if re.fullmatch(r"https?://[^\s<>\"{}|\\^`@]+", address)), None)

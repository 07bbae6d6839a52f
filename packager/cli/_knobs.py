# SPDX-License-Identifier: Apache-2.0
"""Options that turn knobs, for every verb that deploys: --values, --set, and the environment where it applies."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from packager.errors import UsageError

if TYPE_CHECKING:
    from packager.bundle.bundle import Bundle
    from packager.knobs.knobs import Override, Resolved, Schema


HELD = "PACKAGER_HELD__"  # and the name of a variable: the descriptor that holds what it held


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add --values and --set."""
    group = parser.add_argument_group("knobs, see `packager config`")
    group.add_argument(
        "--values",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="YAML of the site; give it again for another one over it",
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KNOB=VALUE",
        dest="knobs",
        help="one value over all others, such as server.port=9000",
    )


def wishes(args: argparse.Namespace, schema: Schema, *, environment: bool) -> Iterator[Override]:
    """Yield what files, environment and arguments say, in this order. Raises UsageError."""
    from packager import strictyaml
    from packager.knobs import knobs

    for path in args.values:
        yield from knobs.from_values(strictyaml.load(path), str(path), schema)
    if environment:
        yield from knobs.from_environment(os.environ)
    yield from knobs.from_arguments(args.knobs)


def resolve(
    args: argparse.Namespace,
    bundle: Bundle,
    *,
    environment: bool = False,
    before: Iterable[Override] = (),
    after: Iterable[Override] = (),
) -> Resolved:
    """Return the knobs of `bundle` as the options of a verb want them; `before` and `after` are under and over those.

    Raises UsageError.
    """
    from packager.bundle.knobs import knob_schema
    from packager.knobs import catalogue, knobs

    schema = knob_schema(bundle)
    found = knobs.resolve(schema, bundle.digest, (*before, *wishes(args, schema, environment=environment), *after))
    catalogue.check_together(found.values)
    return found


def secret_file(knob: str, reference: str) -> str:
    """Return the path of a file that holds a secret: the one named, or one in memory that the next program inherits.

    Raises UsageError.
    """
    kind, _, place = reference.partition(":")
    if kind == "file":
        return place
    if kind == "k8s":
        raise UsageError(
            f"`{knob}`: `{reference}` is a secret of a cluster, and this is no pod",
            hint="mount it and give the mounted file as `file:/path`",
        )
    if f"{HELD}{place}" in os.environ:
        return f"/proc/self/fd/{os.environ[f'{HELD}{place}']}"
    if place not in os.environ:
        raise UsageError(f"`{knob}`: the variable `{place}` is not set", hint=f"{place}=… packager serve …")
    return f"/proc/self/fd/{_in_memory(place)}"


def _in_memory(variable: str) -> int:
    """Return a descriptor of a file that no disk ever sees; without MFD_CLOEXEC, so that it outlives `exec`."""
    descriptor = os.memfd_create(variable, 0)
    os.write(descriptor, os.environ[variable].encode())
    return descriptor


def forget(references: Iterable[str]) -> None:
    """Start this command anew without the secrets that `references` name in its environment, if they name any.

    Who may read /proc/PID/environ of a process that runs for months finds them no more; they are in memory files.
    """
    names = [name for kind, _, name in (text.partition(":") for text in references) if kind == "env"]
    held = {name for name in names if name in os.environ}
    if held:
        kept = {name: value for name, value in os.environ.items() if name not in held}
        files = {f"{HELD}{name}": str(_in_memory(name)) for name in held}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**kept, **files})

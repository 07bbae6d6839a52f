# SPDX-License-Identifier: Apache-2.0
"""Show the knobs of a bundle: every value, where it comes from, and the digest of them all; or compare two results.

  packager config BUNDLE       resolve defaults, --values, with --env PACKAGER_KNOB__GROUP__NAME, and --set
  packager config diff A B     what differs; A and B are results saved with --json, installations, or bundles

BUNDLE may also be an installation. A secret is only ever shown as the reference that was given.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packager.cli import _knobs, options
from packager.cli.console import Console
from packager.errors import UsageError

if TYPE_CHECKING:
    from packager.api import Bundle
    from packager.api.deploy import Knob, Resolved

FOR = "platform"
HELP = "show the resolved knobs of a bundle and where each value comes from"
EXAMPLES = """  packager config digits:1.4.0
  packager config digits.bundle.tar --values berlin.yaml --set server.port=9000
  PACKAGER_KNOB__RUNTIME__THREADS=4 packager config /srv/digits --env --json > berlin.json
  packager config digits:1.4.0 --explain
  packager config diff berlin.json /srv/digits"""
_DIFF = "diff"


def arguments(parser: argparse.ArgumentParser) -> None:
    options.a_bundle(
        parser.add_argument("words", metavar="BUNDLE", nargs="+", help="a bundle or an installation; or: diff A B")
    )
    _knobs.arguments(parser)
    parser.add_argument("--env", action="store_true", help="also read the variables PACKAGER_KNOB__…")
    parser.add_argument("--explain", action="store_true", help="show what each knob means and allows instead")
    options.add_registry(parser)


def main(args: argparse.Namespace, console: Console) -> int:
    if args.words[0] == _DIFF and len(args.words) == 3:
        return _compare(args, console)
    if len(args.words) != 1:
        raise UsageError(f"expected one BUNDLE, got {len(args.words)}", hint="or `packager config diff A B`")
    if args.explain:
        return _explain(args, console)
    found = _resolved(args.words[0], args, console)
    rows = [(name, _shown(setting.value), setting.origin) for name, setting in found.settings.items()]
    console.result(found.to_json(), [*_table(rows), f"digest {found.digest}"])
    return 0


def _resolved(reference: str, args: argparse.Namespace, console: Console) -> Resolved:
    from packager.api import deploy

    sources = _knobs.read_sources(args, environment=os.environ if args.env else None)
    if deploy.is_installation(Path(reference)):
        return deploy.Installation.open(Path(reference)).resolve_knobs(sources)
    return sources.resolve(options.open_reference(reference, args, console))


def _open(reference: str, args: argparse.Namespace, console: Console) -> Bundle:
    from packager.api import deploy

    if deploy.is_installation(Path(reference)):
        return deploy.Installation.open(Path(reference)).bundle
    return options.open_reference(reference, args, console)


def _explain(args: argparse.Namespace, console: Console) -> int:
    from packager.api import deploy

    schema = deploy.read_knob_schema(_open(args.words[0], args, console))
    groups: dict[str, Any] = {name: deploy.describe_knob(knob) for name, knob in schema.items()}
    console.result(groups, [row for knob in schema.values() for row in _paragraph(knob)])
    return 0


def _paragraph(knob: Knob) -> list[str]:
    default = "not set" if knob.default is None else _shown(knob.default)
    return [f"{knob.name} (default: {default}; {knob.expected()}; needs a {knob.needs})", f"    {knob.about}"]


def _compare(args: argparse.Namespace, console: Console) -> int:
    from packager.api import deploy

    before, after = (_values(text, args, console) for text in args.words[1:])
    changes = deploy.compare_knobs(before, after)
    rows = [(name, _shown(old), _shown(new)) for name, old, new in changes]
    value = {"same": not changes, "changes": [{"knob": n, "before": old, "after": new} for n, old, new in changes]}
    console.result(value, _table(rows) if rows else "no knob differs")
    return 1 if changes else 0


def _values(reference: str, args: argparse.Namespace, console: Console) -> dict[str, Any]:
    from packager import canonical

    path = Path(reference)
    if not (path.suffix == ".json" and path.is_file()):
        return _resolved(reference, args, console).values
    try:
        knobs = canonical.load(path.read_bytes(), limit=1 << 20)["knobs"]
        return {name: row["value"] for name, row in knobs.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"`{path}` is no result of `packager config --json`: {error}") from None


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _table(rows: list[tuple[str, str, str]]) -> list[str]:
    wide = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    return [f"{row[0]:{wide[0]}}  {row[1]:{wide[1]}}  {row[2]}".rstrip() for row in rows]

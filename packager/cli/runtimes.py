# SPDX-License-Identifier: Apache-2.0
"""Look at, measure and update what is known of runtimes.

`list` and `show NAME` print it. `probe NAME==V` installs that version in an environment of its own, loads thousands of
small graphs into it and keeps the row for this site; with --bundle it runs ONNX's own tests of the operators that
bundle uses instead, and says which fail. `update FILE --key PUB` takes a newer table that a trusted key signed;
`sign FILE --key PEM -o OUT` makes one.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packager.cli import options
from packager.cli.console import Console

if TYPE_CHECKING:
    from packager.api.runtimes import Row

FOR = "platform"
HELP = "show, measure or update what is known of runtimes"
EXAMPLES = """  packager runtimes list
  packager runtimes show triton
  packager runtimes probe onnxruntime==1.31.1
  packager runtimes probe onnxruntime==1.15.1 --bundle digits:1.4.0
  packager runtimes update onnxruntime.signed.json --key publisher.pub"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        metavar="ACTION",
        choices=("list", "show", "probe", "update", "sign"),
        help="list, show, probe, update or sign",
    )
    parser.add_argument("subject", metavar="NAME|NAME==V|FILE", nargs="?", help="what ACTION is about")
    parser.add_argument(
        "--python",
        default=f"{sys.version_info.major}.{sys.version_info.minor}",
        metavar="V",
        help="probe: version or path of the interpreter",
    )
    parser.add_argument("--bundle", metavar="BUNDLE", help="probe: run ONNX's tests of the operators of this bundle")
    parser.add_argument(
        "--key",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="update: public key to trust; sign: private key",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="probe, sign: write the table there")
    options.add_secrets(parser)
    options.add_registry(parser)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.errors import UsageError

    if args.action != "list" and not args.subject:
        raise UsageError(f"`packager runtimes {args.action}` needs to know of what", hint="see its examples in --help")
    actions = {"list": _list, "show": _show, "probe": _probe, "update": _update, "sign": _sign}
    return actions[args.action](args, console)


def _list(args: argparse.Namespace, console: Console) -> int:
    from packager.api import runtimes

    here = options.open_workspace(args)
    tables = {name: runtimes.read_table(name, here) for name in runtimes.list_runtimes()}
    value = {
        name: {
            "serial": table.serial,
            "versions": len(table.rows),
            "oldest": next(iter(table.rows)),
            "newest": [*table.rows][-1],
            "measured": sum(row.source == "measured" for row in table.rows.values()),
        }
        for name, table in tables.items()
    }
    rows = [
        f"{name:14} {row['versions']:3} versions, {row['oldest']} to {row['newest']}, {row['measured']} measured"
        for name, row in value.items()
    ]
    console.result(value, rows)
    return 0


def _show(args: argparse.Namespace, console: Console) -> int:
    from packager.api import runtimes

    name, _, version = args.subject.partition("==")
    table = runtimes.read_table(name, options.open_workspace(args))
    rows = [runtimes.find_row(table, version)] if version else [*table.rows.values()]
    console.result({row.version: _plain(row) for row in rows}, [_line(row) for row in rows])
    return 0


def _plain(row: Row) -> dict[str, Any]:
    from dataclasses import asdict

    value = {**asdict(row), "opset": dict(row.opset), "inside": dict(row.inside)}
    return {key: member for key, member in value.items() if member not in (None, "", (), {}) and key != "version"}


def _line(row: Row) -> str:
    known = {
        "opset": row.opset.get("ai.onnx"),
        "complete to opset": row.complete,
        "IR": row.ir,
        **row.inside,
        "numpy": row.numpy,
        "CUDA": row.cuda,
        "driver": row.driver,
        "Python": ", ".join(row.python),
    }
    facts = [f"{name} {value}" for name, value in known.items() if value]
    return f"{row.version:8} {row.source:8} {'; '.join(facts)}"


def _probe(args: argparse.Namespace, console: Console) -> int:
    from packager.api import runtimes
    from packager.errors import UsageError
    from packager.files import write_atomically

    name, equals, version = args.subject.partition("==")
    if not equals or not version:
        raise UsageError(f"expected NAME==VERSION, got `{args.subject:.80}`", hint="as in `onnxruntime==1.31.1`")
    here = options.open_workspace(args, console)
    if args.bundle:
        with console:
            bundle = options.open_reference(args.bundle, args, console)
            report = runtimes.run_operator_tests(bundle, name, version, here, python=args.python)
        return _covered(report, console)
    with console:
        found = runtimes.probe_runtime(name, version, here, python=args.python)
    if args.output:
        write_atomically(args.output, json.dumps(found.table, indent=1).encode() + b"\n")
    row, counts = found.row, found.counts
    complete = f", complete to {row['complete']}" if "complete" in row else ""
    text = (
        f"{name} {found.version}: opset {row['opset']['ai.onnx']}{complete}, IR {row['ir']}; "
        f"{counts['o']} of {sum(counts.values())} combinations work\nkept in {found.path}"
    )
    value = {"runtime": name, "version": found.version, **row, "kernels": counts, "kept": str(found.path)}
    console.result(value, text)
    return 0


def _covered(report: Any, console: Console) -> int:
    from packager.api import runtimes

    counts = {
        op: (len(entry["failed"]), entry["passed"], entry["skipped"]) for op, entry in report["operators"].items()
    }
    rows = [
        f"{'FAIL' if failed else 'ok  ' if passed else '-   '} {name:24} {passed} passed, {failed} failed, "
        f"{skipped} skipped"
        for name, (failed, passed, skipped) in counts.items()
    ]
    console.result(report, [*rows, *runtimes.format_operator_report(report)])
    return int(bool(runtimes.list_broken_operators(report)))


def _update(args: argparse.Namespace, console: Console) -> int:
    from packager.api import runtimes
    from packager.errors import UsageError

    if not args.key:
        raise UsageError("a table is taken only from whom you trust", hint="give the publisher's key with `--key`")
    table = runtimes.update_table(Path(args.subject), options.trusted_keys(args), options.open_workspace(args))
    value = {"runtime": table.runtime, "serial": table.serial, "versions": list(table.rows)}
    console.result(value, f"took {len(table.rows)} rows about {table.runtime}, serial {table.serial}")
    return 0


def _sign(args: argparse.Namespace, console: Console) -> int:
    from packager.api import runtimes
    from packager.cli.sign import open_signer
    from packager.errors import UsageError
    from packager.files import write_atomically

    if len(args.key) != 1 or not args.output:
        raise UsageError("`sign` needs one private key and an output", hint="give --key PEM and -o FILE")
    signed = runtimes.sign_table(Path(args.subject), open_signer(f"key:{args.key[0]}", args))
    write_atomically(args.output, signed)
    console.result({"output": str(args.output)}, f"wrote {args.output}")
    return 0

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
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packager.cli import options
from packager.cli.console import Console

if TYPE_CHECKING:
    from packager.contract.runtime_tables import Row

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
    options.secrets(parser)
    options.registry(parser)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.contract import runtime_tables
    from packager.errors import UsageError

    runtime_tables.use_updates(options.workspace(args).knowledge)
    if args.action != "list" and not args.subject:
        raise UsageError(f"`packager runtimes {args.action}` needs to know of what", hint="see its examples in --help")
    actions = {"list": _list, "show": _show, "probe": _probe, "update": _update, "sign": _sign}
    return actions[args.action](args, console)


def _list(args: argparse.Namespace, console: Console) -> int:
    from packager.contract import runtime_tables

    tables = {name: runtime_tables.table(name) for name in runtime_tables.runtimes()}
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
    from packager.contract import runtime_support, runtime_tables
    from packager.errors import UsageError, did_you_mean

    name, _, version = args.subject.partition("==")
    table = runtime_tables.table(name)
    if not table.rows:
        raise UsageError(
            f"nothing is known of runtime `{name:.60}`", hint=did_you_mean(name, runtime_tables.runtimes())
        )
    row = runtime_support.find(table, version) if version else None
    if version and row is None:
        raise UsageError(f"nothing is known of {name} {version}", hint=f"`packager runtimes probe {name}=={version}`")
    rows = [row] if row else [*table.rows.values()]
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
    from packager.conform import probing
    from packager.errors import UsageError

    name, equals, version = args.subject.partition("==")
    if not equals or not version:
        raise UsageError(f"expected NAME==VERSION, got `{args.subject:.80}`", hint="as in `onnxruntime==1.31.1`")
    cache = options.cache_directory() / "environments"
    with console:
        if args.bundle:
            report = _coverage(args, console, name, version, cache)
        else:
            table = probing.probe(name, version, args.python, cache, console)
    if args.bundle:
        return _covered(report, console)
    path = probing.keep(table, options.workspace(args).knowledge)
    if args.output:
        from packager.files import write_atomically

        write_atomically(args.output, json.dumps(table, indent=1).encode() + b"\n")
    ((found, row),) = table["versions"].items()
    counts = _counts(table["kernels"])
    complete = f", complete to {row['complete']}" if "complete" in row else ""
    text = (
        f"{name} {found}: opset {row['opset']['ai.onnx']}{complete}, IR {row['ir']}; "
        f"{counts['o']} of {sum(counts.values())} combinations work\nkept in {path}"
    )
    console.result({"runtime": name, "version": found, **row, "kernels": counts, "kept": str(path)}, text)
    return 0


def _counts(kernels: Any) -> dict[str, int]:
    counts = {"o": 0, "x": 0, "-": 0}
    for operators in kernels["operators"].values():
        for definitions in operators.values():
            for patterns in definitions.values():
                for pattern, rows in patterns.items():
                    counts[pattern] += len(rows)
    return counts


def _coverage(args: argparse.Namespace, console: Console, name: str, version: str, cache: Path) -> Any:
    from packager import conform
    from packager.bundle.bundle import CONTRACT
    from packager.conform import operators
    from packager.contract import contract

    data = options.open_reference(args.bundle, args, console).read(CONTRACT)
    promise = contract.parse(data)
    settings = operators.Installed(conform.suite(), cache, dict(os.environ), args.python)
    graph = {"runtime": "onnxruntime", "device": "cpu"}  # what is tested are operators of the graph
    return operators.alone(name, version, graph, promise.graph, settings, console)


def _covered(report: Any, console: Console) -> int:
    from packager.conform import operators
    from packager.errors import StepError

    if "reason" in report:
        raise StepError(report["reason"])
    counts = {
        op: (len(entry["failed"]), entry["passed"], entry["skipped"]) for op, entry in report["operators"].items()
    }
    rows = [
        f"{'FAIL' if failed else 'ok  ' if passed else '-   '} {name:24} {passed} passed, {failed} failed, "
        f"{skipped} skipped"
        for name, (failed, passed, skipped) in counts.items()
    ]
    console.result(report, [*rows, *operators.lines(report)])
    return int(bool(operators.broken(report)))


def _update(args: argparse.Namespace, console: Console) -> int:
    from packager.conform import probing
    from packager.errors import UsageError

    if not args.key:
        raise UsageError("a table is taken only from whom you trust", hint="give the publisher's key with `--key`")
    data = _read(Path(args.subject))
    table = probing.update(data, args.subject, options.trusted_keys(args), options.workspace(args).knowledge)
    value = {"runtime": table.runtime, "serial": table.serial, "versions": list(table.rows)}
    console.result(value, f"took {len(table.rows)} rows about {table.runtime}, serial {table.serial}")
    return 0


def _sign(args: argparse.Namespace, console: Console) -> int:
    from packager.cli.sign import open_signer
    from packager.conform import probing
    from packager.errors import UsageError
    from packager.files import write_atomically

    if len(args.key) != 1 or not args.output:
        raise UsageError("`sign` needs one private key and an output", hint="give --key PEM and -o FILE")
    signed = probing.sign(_read(Path(args.subject)), args.subject, open_signer(f"key:{args.key[0]}", args))
    write_atomically(args.output, signed)
    console.result({"output": str(args.output)}, f"wrote {args.output}")
    return 0


def _read(path: Path) -> bytes:
    from packager.contract.runtime_tables import MAX_TABLE
    from packager.errors import UsageError

    try:
        with path.open("rb") as file:
            return file.read(2 * MAX_TABLE)
    except OSError as error:
        raise UsageError(f"cannot read `{path}`: {error.strerror}") from None

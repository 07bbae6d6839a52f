# SPDX-License-Identifier: Apache-2.0
"""Prove that a bundle runs, and runs right, on real runtimes or on a server that already runs.

Each cell (target, runtime version, device) gets an environment and a process of its own and is judged level by level:
L0 integrity, L1 load, L2 interface, L3 numerics, L4 behaviour, L5 speed. Without --runtime: each promised runtime at
the oldest and the newest version of its range. Environments are built from the package index once and cached.
Exit code 0: nothing failed and something passed. A skipped cell is not a pass; `--strict` makes it a failure.

`packager conform merge RESULT…` joins results (`result.json`, or signed attestations with --key) about one bundle;
with --attach BUNDLE the attestations that sites sent back are attached to it, for policies and gates to read.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packager.cli import _completers, options
from packager.cli.console import Console

if TYPE_CHECKING:
    from packager.api import Bundle
    from packager.api.conformance import Endpoint

FOR = "platform"
HELP = "run the conformance suite on real runtimes, or on an endpoint"
EXAMPLES = """  packager conform digits.bundle.tar --key release.pub
  packager conform digits.bundle.tar --runtime 'onnxruntime==*' --runtime triton --jobs 2 --report out
  packager conform digits.bundle.tar --runtime triton==2.51 --level L3 --json
  packager conform digits.bundle.tar --endpoint https://models.example.org --header-file auth.txt --endpoint-ca ca.pem
  packager conform digits.bundle.tar --runtime onnxruntime==1.31.1 --python /srv/digits/current/env/bin/python
  packager conform digits.bundle.tar --adapter 'python my_adapter.py'
  packager conform digits:1.4.0 --sign site.pem --report out
  packager conform digits.bundle.tar --key release.pub --evaluate june.csv
  packager conform merge out-a/result.json out-b/attestation.sigstore.json --key site-b.pub --report all
  packager conform merge attestation.sigstore.json --key site.pub --attach digits.bundle.tar"""
_AUTHORIZATION = "PACKAGER_ENDPOINT_AUTHORIZATION"


def arguments(parser: argparse.ArgumentParser) -> None:
    from packager.api import conformance

    parser.set_defaults(jobs=conformance.count_processors())
    options.add_bundle(parser)
    parser.add_argument("results", metavar="RESULT", nargs="*", type=Path, help="after `merge`: results to join")
    option = parser.add_argument(
        "--runtime",
        action="append",
        default=[],
        metavar="NAME[==V]",
        help="test this runtime; `==*` is every minor version; repeat it for another one",
    )
    _completers.complete_with(option, _completers.list_runtimes)
    parser.add_argument(
        "--adapter", metavar="COMMAND", help="test a runtime through your own program (see conformance/README.md)"
    )
    parser.add_argument("--level", choices=[f"L{n}" for n in range(6)], default="L5", help="the last level to run")
    parser.add_argument(
        "--operators",
        action="store_true",
        help="run ONNX's tests of its operators on every cell, not only on one that fails",
    )
    parser.add_argument(
        "--evaluate",
        type=Path,
        metavar="DATA",
        help="measure the metric of the recipe's `evaluation` again, on these rows with labels; below its bound fails",
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="write result.json, junit.xml, report.html, and the attestation if signed",
    )
    parser.add_argument(
        "--strict", action="store_true", help="a skipped cell or a known deviation of a runtime is a failure"
    )
    parser.add_argument(
        "--sign", metavar="KEY", help="sign the result and attach it to the bundle: a key file or a URI"
    )
    parser.add_argument("--attach", metavar="BUNDLE", help="merge: attach the signed results to this bundle")
    parser.add_argument("--seconds", type=int, default=600, metavar="N", help="limit of one cell (default: 600)")
    parser.add_argument(
        "--memory", type=int, default=0, metavar="MB", help="address space of an adapter (default: all)"
    )
    parser.add_argument("--python", type=Path, metavar="EXE", help="test the runtime of this environment; build none")
    parser.add_argument("--wheelhouse", type=Path, metavar="DIR", help="wheels for `--runtime serve` without a network")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where environments are kept (default: user cache)")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="work in this new directory and keep it, logs included"
    )
    options.add_secrets(parser)
    options.add_trust(parser, "who must have signed the bundle; with merge, whose results count (--key)")
    _endpoint_arguments(parser.add_argument_group("a server that already runs (Open Inference Protocol)"))


def _endpoint_arguments(group: Any) -> None:
    group.add_argument(
        "--endpoint",
        action="append",
        default=[],
        metavar="URL",
        help="http(s)://host[:port][/path] or grpc(s)://host:port; one of each at most",
    )
    group.add_argument("--model", metavar="NAME", help="the model's name there (default: the bundle's)")
    group.add_argument(
        "--header-file",
        type=Path,
        metavar="FILE",
        help=f"lines `Name: value` sent with every request (else ${_AUTHORIZATION})",
    )
    group.add_argument("--endpoint-ca", type=Path, metavar="PEM", help="trust this certificate authority only")
    group.add_argument("--json-only", action="store_true", help="the server takes no binary tensors")


def main(args: argparse.Namespace, console: Console) -> int:
    if args.bundle == "merge":
        return _merge(args, console)
    with console:
        bundle, result = _run(args, console)
        statement = _signed(args, bundle, result, console) if args.sign else None
    return _finish(args, console, result, statement)


def _merge(args: argparse.Namespace, console: Console) -> int:
    from packager.api import conformance

    keys = options.trusted_keys(args)
    result = conformance.merge_results(args.results, keys)
    if args.attach:
        conformance.attach_results(args.results, options.open_reference(args.attach, args, console), keys, console)
    return _finish(args, console, result, None)


def _run(args: argparse.Namespace, console: Console) -> tuple[Bundle, Any]:
    import shlex

    from packager.api import conformance
    from packager.cli._trust import verifier_of
    from packager.errors import UsageError

    if args.results:
        raise UsageError(f"`{args.results[0]}` is one argument too many", hint="several runtimes: repeat --runtime")
    bundle = options.open_bundle(args, console)
    result = conformance.run_conformance(
        bundle,
        options.open_workspace(args, console),
        verifier_of(args) if options.wants_trust(args) else None,
        runtimes=args.runtime,
        adapter=shlex.split(args.adapter) if args.adapter else (),
        endpoint=_endpoint(args) if args.endpoint else None,
        level=int(args.level[1]),
        seconds=args.seconds,
        memory=args.memory << 20,
        python=args.python,
        operators=args.operators,
        evaluate=args.evaluate,
        wheelhouse=args.wheelhouse,
        cache=args.cache,
        keep=args.keep,
    )
    return bundle, result


def _endpoint(args: argparse.Namespace) -> Endpoint:
    from packager.api.conformance import Endpoint

    return Endpoint.from_addresses(
        args.endpoint, args.model, _headers(args), args.endpoint_ca, binary=not args.json_only
    )


def _headers(args: argparse.Namespace) -> dict[str, str]:
    """Read what lets a client in; it is never an argument, because arguments are public."""
    from packager.errors import UsageError

    if args.header_file is None:
        value = os.environ.get(_AUTHORIZATION)
        return {"Authorization": value} if value else {}
    try:
        rows = args.header_file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read header file `{args.header_file}`: {error}") from None
    pairs = [row.partition(":") for row in rows if row.strip()]
    if any(not colon or not name.strip() for name, colon, _ in pairs):
        raise UsageError(f"`{args.header_file}` holds a line that is no header", hint="write lines `Name: value`")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _signed(args: argparse.Namespace, bundle: Bundle, result: Any, console: Console) -> bytes:
    """Sign the result, attach it to the bundle where it lies, and return the attestation."""
    from packager.api import conformance
    from packager.cli.sign import open_signer

    uri = args.sign if ":" in args.sign else f"key:{args.sign}"
    return conformance.sign_result(result, bundle, open_signer(uri, args), console)


def _finish(args: argparse.Namespace, console: Console, result: Any, attestation: bytes | None) -> int:
    from packager.api import conformance

    if args.report:
        conformance.write_report(result, args.report, attestation)
    text = conformance.format_result(result)
    console.result(result, text + (f"\nwrote {args.report}" if args.report else ""))
    found = result["verdict"]
    return 0 if found["ok"] and not (args.strict and (found["unproven"] or found["known"])) else 1

# SPDX-License-Identifier: Apache-2.0
"""Show what a bundle says of itself: identity, interface, targets, files, who signed. Checks no signature."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from packager.cli import options
from packager.cli.console import Console, size

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from packager.bundle.bundle import Bundle

FOR = "everybody"
HELP = "show what a bundle holds, or what a model file takes and returns"
EXAMPLES = """  packager inspect digits.bundle.tar
  packager inspect model.onnx
  packager inspect digits:1.4.0 --json"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.bundle(parser)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.contract.contract import lines
    from packager.lock.inspection import source_files
    from packager.release.proofs import origin
    from packager.trust.verify import list_unreadable

    if files := source_files(args.bundle):
        return _inspect_source(files, args, console)
    bundle = options.open_bundle(args)
    contract = bundle.contract.document
    taken = lines(bundle.contract)
    value = {
        "name": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "set_digest": bundle.set_digest,
        "size": bundle.size,
        "source": origin(bundle),
        "contract": contract,
        "takes": taken,
        "files": {path: {"digest": blob.digest, "size": blob.size} for path, blob in bundle.tree},
        "statements": _statements(bundle),
        "unreadable": [{"digest": digest, "reason": why.message} for digest, why in list_unreadable(bundle).items()],
    }
    text = _text(bundle, contract, taken, value["statements"], value["unreadable"])
    text[4:4] = _origin(value["source"])
    console.result(value, text)
    return 0


def _inspect_source(files: Mapping[str, Path], args: argparse.Namespace, console: Console) -> int:
    from packager.actions.runner import Runner
    from packager.lock.inspection import LIMITS, inspect, lines

    with console:
        kind, payload, found = inspect(files, Runner(options.workspace(args).open_store(), LIMITS, console))
    value = {"kind": kind, "payload": payload, **found}
    console.result(value, [f"{payload}: a source, read by `{kind}`", *lines(found)])
    return 0


def _origin(source: Mapping[str, str | None]) -> list[str]:
    rows = [f"  source     {source['uri']}"] if source["uri"] else []
    if source["name"] and source["version"]:
        rows.append(f"  model      {source['name']} version {source['version']}, as {source['reference']}")
    elif source["reference"] and source["reference"] != source["uri"]:
        rows.append(f"  model      {source['reference']}")
    return rows


def _statements(bundle: Bundle) -> list[dict[str, str]]:
    from packager.trust.verify import list_statements

    return [
        {"predicate_type": kind, "claim": claim, "digest": digest} for digest, claim, kind in list_statements(bundle)
    ]


def _text(
    bundle: Bundle, contract: Any, taken: list[str], statements: list[dict[str, str]], unreadable: list[dict[str, str]]
) -> list[str]:
    rows = [
        f"{bundle.name} {bundle.version}",
        f"  manifest   {bundle.digest}",
        f"  file set   {bundle.set_digest}",
        f"  size       {size(bundle.size)} in {len(bundle.tree.files)} files",
    ]
    opset = ", ".join(f"{domain} {version}" for domain, version in contract["graph"]["opset"].items())
    rows.append(f"  graph      opset {opset}; IR {contract['graph']['ir']}")
    for kind in ("inputs", "outputs"):
        for port in contract["interface"][kind]:
            rows.append(f"  {kind[:-1]:10} {port['name']}: {port['dtype']}{port['shape']}")
    for name, labels in contract.get("classes", {}).items():
        rows.append(f"  classes    {name}: {', '.join(map(str, labels[:12]))}{' …' if len(labels) > 12 else ''}")
    if raw := contract.get("pipeline"):
        compared = f"{raw['inputs']} inputs compared with {raw['reference']}"
        rows.append(f"  pipeline   {raw['task']}, {compared}, the largest difference {raw['largest']:g}")
    rows += [f"  {row.partition(' ')[0]:10} {row.partition(' ')[2]}" for row in taken]
    for name, promise in contract["runs-on"].items():
        rows.append(f"  runs on    {name} {promise['versions']}")
    rows += [f"  target     {name}: {target['path']}" for name, target in contract["targets"].items()]
    rows += [f"  signed     {item['predicate_type']} by {item['claim']:.200} (not checked here)" for item in statements]
    if not statements:
        rows.append("  signed     no")
    rows += [f"  attached   {item['digest']} (unreadable: {item['reason']:.200})" for item in unreadable]
    rows += [f"  {blob.digest[7:19]}  {size(blob.size):>9}  {path}" for path, blob in bundle.tree]
    return rows

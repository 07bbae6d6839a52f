# SPDX-License-Identifier: Apache-2.0
"""Show what a bundle says of itself: identity, interface, targets, files, who signed. Checks no signature."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from packager.cli import options
from packager.cli._units import format_size
from packager.cli.console import Console

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from packager.api import Bundle
    from packager.api.bundles import AttachedStatement

_MANY = 8  # files of one directory that are still listed one by one
FOR = "everybody"
HELP = "show what a bundle holds, or what a model file takes and returns"
EXAMPLES = """  packager inspect digits.bundle.tar
  packager inspect model.onnx
  packager inspect digits:1.4.0 --json"""

_CACHE = ("past_key_values.", "present.")


def arguments(parser: argparse.ArgumentParser) -> None:
    options.add_bundle(parser)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.api import bundles, recipes

    if files := recipes.find_model_files(args.bundle):
        return _inspect_source(files, args, console)
    bundle = options.open_bundle(args)
    contract = bundle.contract.document
    taken = bundle.contract.describe()
    statements = bundles.list_statements(bundle)
    value: dict[str, Any] = {
        "name": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "set_digest": bundle.set_digest,
        "size": bundle.size,
        "source": bundles.read_origin(bundle),
        "accuracy": bundles.read_evaluations(bundle),
        "contract": contract,
        "takes": taken,
        "files": {path: {"digest": blob.digest, "size": blob.size} for path, blob in bundle.tree},
        "statements": [statement._asdict() for statement in statements],
        "unreadable": [
            {"digest": digest, "reason": why.message} for digest, why in bundles.list_unreadable(bundle).items()
        ],
    }
    text = _text(bundle, contract, taken, statements, value["unreadable"])
    text[4:4] = [*_origin(value["source"]), *_accuracy(value["accuracy"])]
    console.result(value, text)
    return 0


def _inspect_source(files: Mapping[str, Path], args: argparse.Namespace, console: Console) -> int:
    from packager.api import recipes

    with console:
        model = recipes.inspect_model(files, options.open_workspace(args, console))
    value = {"kind": model.kind, "payload": model.payload, **model.found}
    console.result(value, [f"{model.payload}: a source, read by `{model.kind}`", *model.describe()])
    return 0


def _origin(source: Mapping[str, str | None]) -> list[str]:
    rows = [f"  source     {source['uri']}"] if source["uri"] else []
    if source["name"] and source["version"]:
        rows.append(f"  model      {source['name']} version {source['version']}, as {source['reference']}")
    elif source["reference"] and source["reference"] != source["uri"]:
        rows.append(f"  model      {source['reference']}")
    return rows


def _accuracy(found: Mapping[str, Any]) -> list[str]:
    """Return what each target reaches on rows with labels, its bound, the source's value, and the worst slice."""
    rows = []
    for name, facts in found.items():
        both = f"{_value(facts['target'])} (source {_value(facts['source'])}, bound {facts['bound']:g})"
        rows.append(f"  reaches    {name}: {facts['metric']} {both} on {facts['rows']} rows of {facts['data'][:19]}")
        if worst := facts["worst"]:
            place = f"{worst['column']} = {worst['value']:.40}"
            both = f"{_value(worst['target'])} (source {_value(worst['source'])})"
            rows.append(f"             least on {place}: {both}, {worst['rows']} rows")
    return rows


def _value(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4g}"


def _text(
    bundle: Bundle,
    contract: Any,
    taken: list[str],
    statements: list[AttachedStatement],
    unreadable: list[dict[str, str]],
) -> list[str]:
    rows = [
        f"{bundle.name} {bundle.version}",
        f"  manifest   {bundle.digest}",
        f"  file set   {bundle.set_digest}",
        f"  size       {format_size(bundle.size)} in {len(bundle.tree.files)} files",
    ]
    opset = ", ".join(f"{domain} {version}" for domain, version in contract["graph"]["opset"].items())
    rows.append(f"  graph      opset {opset}; IR {contract['graph']['ir']}")
    for kind in ("inputs", "outputs"):
        ports = contract["interface"][kind]
        shown = [port for port in ports if not (contract.get("generation") and port["name"].startswith(_CACHE))]
        for port in shown:
            rows.append(f"  {kind[:-1]:10} {port['name']}: {port['dtype']}[{', '.join(map(str, port['shape']))}]")
        if len(shown) < len(ports):
            rows.append(f"  {kind[:-1]:10} and {len(ports) - len(shown)} tensors of the key-value cache")
    for name, labels in contract.get("classes", {}).items():
        rows.append(f"  classes    {name}: {', '.join(map(str, labels[:12]))}{' …' if len(labels) > 12 else ''}")
    if says := contract.get("generation"):
        kept = f"{says['cache']['bytes']} bytes of cache for each"
        rows.append(f"  generates  text, by {says['architecture']}: up to {says['context']} tokens, {kept}")
        rows.append(f"  template   {says['template'] or 'none'}; tokenizer {says['tokenizer']}")
        rows += _decoding(says)
    if raw := contract.get("pipeline"):
        compared = f"{raw['inputs']} inputs compared with {raw['reference']}"
        rows.append(f"  pipeline   {raw['task']}, {compared}, the largest difference {raw['largest']:g}")
    rows += [f"  {row.partition(' ')[0]:10} {row.partition(' ')[2]}" for row in taken]
    for name, promise in contract["runs-on"].items():
        rows.append(f"  runs on    {name} {promise['versions']}")
    rows += [f"  target     {name}: {target['path']}" for name, target in contract["targets"].items()]
    rows += _signed(statements)
    rows += [f"  attached   {item['digest']} (unreadable: {item['reason']:.200})" for item in unreadable]
    return [*rows, *_files(bundle)]


def _decoding(says: Any) -> list[str]:
    """Return what an encoder-decoder reads, and how it answers."""
    if "decoding" not in says:
        return []
    how, audio = says["decoding"], says.get("audio")
    source = f"texts of up to {how['source']} tokens"
    if audio:
        languages = f" in {len(audio['languages'])} languages" if audio["languages"] else ""
        source = f"up to {audio['seconds']} seconds of audio at {audio['rate']} samples a second{languages}"
    search = f"{how['beams']} beams" if how["beams"] > 1 else "the most likely token of every step"
    return [f"  reads      {source}", f"  searches   {search}, up to {how['longest']} tokens"]


def _signed(statements: list[AttachedStatement]) -> list[str]:
    """Return each claimed signer once, with the types of what it signed."""
    if not statements:
        return ["  signed     no"]
    rows = []
    for claim in dict.fromkeys(item.claim for item in statements):
        rows.append(f"  signed by  {claim:.200} (`packager verify` checks that):")
        rows += [f"             {item.predicate_type}" for item in statements if item.claim == claim]
    return rows


def _files(bundle: Bundle) -> list[str]:
    """Return a line for each file, and one for a directory with many; --json lists all."""
    folders: dict[str, list[tuple[str, str, int]]] = {}
    for path, blob in bundle.tree:
        folders.setdefault(path.rpartition("/")[0], []).append((path, blob.digest, blob.size))
    rows = []
    for folder, files in folders.items():
        if folder and len(files) > _MANY:
            total = format_size(sum(count for _, _, count in files))
            rows.append(f"  {f'{len(files)} files':12}  {total:>9}  {folder}/")
        else:
            rows += [f"  {digest[7:19]}  {format_size(count):>9}  {path}" for path, digest, count in files]
    return rows

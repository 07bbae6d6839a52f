# SPDX-License-Identifier: Apache-2.0
"""Write the deployment files of a bundle for a server: a model in a Triton model repository.

Several bundles share one repository; the same bundle again becomes the next version and the one that is served. The
bundle is verified first, and every file is hashed while it is copied. Knobs become config.pbtxt, or with --site NAME
configs/NAME.pbtxt for `tritonserver --model-config-name=NAME`.

With --swap URL a running server changes to the new version: it is loaded under another name, asked the reference
vectors, then takes the traffic; if anything fails, the version before serves on and the exit code is 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packager.cli import _knobs, options
from packager.cli.console import Console

HELP = "write a bundle's deployment files for a server"
EXAMPLES = """  packager render triton digits.bundle.tar models/ --key release.pub
  packager render triton digits:1.4.0 models/ --trust acme.trust --values berlin.yaml --site berlin
  packager render triton digits:1.4.0 models/ --key release.pub --backend python --set triton.instances=2
  packager render triton digits:1.5.0 models/ --key release.pub --swap http://127.0.0.1:8000
  tritonserver --model-repository models --model-control-mode explicit --load-model digits"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", metavar="KIND", choices=("triton",), help="triton")
    options.bundle(parser)
    parser.add_argument("out", metavar="OUT", type=Path, help="the model repository, made if it is not there")
    options.trust(parser)
    _knobs.arguments(parser)
    parser.add_argument("--site", metavar="NAME", help="write the knobs to configs/NAME.pbtxt, not to config.pbtxt")
    parser.add_argument("--backend", choices=("native", "python"), default="native",
                        help="native: of NVIDIA's images; python: ONNX Runtime in the Python backend")  # fmt: skip

    parser.add_argument("--swap", metavar="URL", help="and make the running Triton at http(s)://host:port serve it")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager import knobs, knobsets
    from packager.canary import Endpoint
    from packager.cli._trust import Judge
    from packager.errors import UsageError
    from packager.render import render_triton
    from packager.swap import swap

    if args.swap and args.site:
        raise UsageError("--swap goes without --site", hint="load the site's configuration with the server's own tools")
    endpoint = Endpoint.parse(args.swap) if args.swap else None
    judge = Judge.of(args)
    with console:
        bundle = options.open_bundle(args, console)
        judge.require(bundle)
        values = _knobs.resolve(args, bundle)
        sites = {args.site: values} if args.site else {}
        base = knobs.resolve(knobsets.schema_of(bundle), bundle.digest) if args.site else values
        model = render_triton(bundle, base, args.out, args.backend, sites, console, switch=endpoint is None)
        if endpoint is not None:
            swap(model, bundle, values, endpoint, console)
    value = {"name": model.name, "version": bundle.version, "digest": bundle.digest, "knobs": values.digest,
             "number": model.number, "before": model.before, "created": model.created,
             "repository": str(args.out)}  # fmt: skip
    console.result(value, f"{bundle.name}:{bundle.version} is version {model.number} in {args.out / model.name}")
    return 0

# SPDX-License-Identifier: Apache-2.0
"""Write the deployment files of a bundle for a server or a host.

The bundle is verified first, and every file is hashed while it is copied. The same bundle, knobs and options give the
same bytes; OUT is replaced in one step if it is an earlier rendering.

bentoml: a Bento for `bentoml build`. container: a Containerfile and its context, from carried wheels. kubernetes:
manifests, a KServe InferenceService and a Helm chart. systemd: hardened units for an installation. observability:
Prometheus rules, a Grafana dashboard, a Datadog check and a runbook. mlflow: a model for `mlflow models serve`,
`mlflow.pyfunc.load_model` and `spark_udf`; with --register NAME it becomes a version of that model in the registry.
mlserver: a model for `mlserver start`, alone or in a repository with others.

triton: a model of a repository that several bundles share, a directory or a bucket (s3://bucket/folder); the same
bundle again is the version it was before, another one the next version and the one that is served. Knobs become
config.pbtxt, or with --site NAME configs/NAME.pbtxt for `tritonserver --model-config-name=NAME`. With --swap URL a
running server changes to the new version: it is loaded under another name, tried on the reference vectors, then takes
the traffic; if anything fails, the version before serves on and the exit code is 1.

ensemble: instead of a bundle a PIPELINE.yaml that chains models of a repository, one after another, as one more model.
Names, types and shapes are checked against what was rendered there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packager.cli import _completers, _knobs, options
from packager.cli.console import Console

FOR = "platform"
HELP = "write a bundle's deployment files for a server or a host"
EXAMPLES = """  packager render triton digits.bundle.tar models/ --key release.pub
  packager render triton digits:1.4.0 models/ --trust acme.trust --values berlin.yaml --site berlin
  packager render triton digits:1.4.0 models/ --key release.pub --backend python --set triton.instances=2
  packager render triton digits:1.5.0 models/ --key release.pub --swap http://127.0.0.1:8000
  packager render triton digits:1.4.0 s3://acme-models/triton --key release.pub
  packager render ensemble support.yaml models/
  packager render ensemble support.yaml s3://acme-models/triton --json
  packager render bentoml digits:1.4.0 bento/ --key release.pub --set bentoml.workers=2
  packager render mlflow digits:1.4.0 model/ --key release.pub --register digits-packaged
  packager render mlserver digits:1.4.0 models/digits --key release.pub
  packager render container digits.bundle.tar image/ --key release.pub --base docker.io/library/python@sha256:…
  packager render kubernetes digits:1.4.0 deploy/ --key release.pub --image registry.acme.example/digits@sha256:…
  packager render kubernetes digits:1.4.0 deploy/ --trust acme.trust --image registry.acme.example/digits@sha256:… \
    --namespace models --admission kyverno
  packager render kubernetes digits:1.4.0 deploy/ --trust acme.trust --image registry.acme.example/digits@sha256:… \
    --admission kyverno --admission-mirror http://sigstore-tuf.kyverno.svc --admission-key tuf.pem
  packager render systemd digits:1.4.0 units/ --key release.pub --values berlin.yaml
  packager render observability digits:1.4.0 watch/ --key release.pub
  tritonserver --model-repository models --model-control-mode explicit --load-model digits"""


def arguments(parser: argparse.ArgumentParser) -> None:
    listed = "bentoml, container, ensemble, kubernetes, mlflow, mlserver, observability, systemd or triton"
    kind = parser.add_argument("kind", metavar="KIND", help=listed)
    _completers.complete_with(kind, _completers.list_kinds)
    options.add_bundle(parser)
    parser.add_argument(
        "out", metavar="OUT", help="directory; for triton and ensemble the repository, or s3://bucket/folder"
    )
    options.add_trust(parser)
    options.add_secrets(parser)
    _knobs.arguments(parser)
    own = parser.add_argument_group("triton")
    own.add_argument("--site", metavar="NAME", help="write the knobs to configs/NAME.pbtxt, not to config.pbtxt")
    own.add_argument(
        "--backend",
        choices=("native", "python"),
        help="native (default): NVIDIA's images; python: ONNX Runtime in the Python backend",
    )
    own.add_argument(
        "--raw", action="store_true", help="take texts, images or audio by the bundle's pipeline (--backend python)"
    )
    own.add_argument("--swap", metavar="URL", help="and make the running Triton at http(s)://host:port serve it")
    own = parser.add_argument_group("mlflow")
    own.add_argument("--register", metavar="NAME", help="and make it a version of the model NAME in the registry")
    own.add_argument("--registry", metavar="URI", help="address of the registry (MLFLOW_TRACKING_URI, or mlflow.db)")


def own_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the kinds declare."""
    from packager.api import deploy

    known: dict[str, tuple[list[str], str, str]] = {}
    for kind in deploy.list_renderers():
        for option in deploy.list_render_options(kind):
            known.setdefault(option.name, ([], option.metavar, option.about))[0].append(kind)
    group = parser.add_argument_group("options of kinds")
    for name, (kinds, metavar, text) in known.items():
        group.add_argument(f"--{name}", metavar=metavar, help=f"{', '.join(kinds)}: {text}")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.api import deploy
    from packager.errors import UsageError

    deploy.list_render_options(args.kind)  # an unknown kind is the first thing to say
    given = {flag for flag, kinds in _flags().items() if getattr(args, flag) and args.kind not in kinds}
    for flag in sorted(given):
        kinds = ", ".join(f"`{kind}`" for kind in _flags()[flag])
        name = {"knobs": "set"}.get(flag, flag.replace("_", "-"))
        raise UsageError(f"--{name} is for {kinds}, not for `{args.kind}`")
    return {"triton": _triton, "ensemble": _ensemble}.get(args.kind, _directory)(args, console)


def _flags() -> dict[str, list[str]]:
    """Return for every option that is not for all kinds those which it is for."""
    from packager.api import deploy

    found: dict[str, list[str]] = {"site": ["triton"], "swap": ["triton"], "backend": ["triton"], "raw": ["triton"]}
    found |= {"register": ["mlflow"], "registry": ["mlflow"], "passphrase_file": ["kubernetes"]}
    every = deploy.list_renderers()
    bundled = [kind for kind in every if kind != "ensemble"]  # an ensemble is of what was verified before
    found |= dict.fromkeys(("trust", "key", "ca", "identity", "values", "knobs"), bundled)
    for kind in every:
        for option in deploy.list_render_options(kind):
            found.setdefault(option.name.replace("-", "_"), []).append(kind)
    return found


def _directory(args: argparse.Namespace, console: Console) -> int:
    from packager.api import deploy
    from packager.cli._trust import verifier_of
    from packager.errors import UsageError

    if "://" in args.out:
        raise UsageError(f"`{args.kind}` is written to a directory, not to `{args.out:.200}`")
    if args.registry and not args.register:
        raise UsageError("--registry goes with --register NAME")
    judge = verifier_of(args)
    given = {
        option.name: getattr(args, option.name.replace("-", "_")) for option in deploy.list_render_options(args.kind)
    }
    with console:
        bundle = options.open_bundle(args, console)
        here = options.open_workspace(args, console)
        made = deploy.render_files(
            args.kind,
            bundle,
            Path(args.out),
            judge,
            here,
            knobs=_knobs.read_sources(args),
            options=given,
            secret=options.secret_reader(args, given.get("admission-key") or ""),
        )
        found = (
            deploy.register_model(bundle, Path(args.out), args.register, here, registry=args.registry)
            if args.register
            else None
        )
    value = {
        "kind": args.kind,
        "name": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "knobs": made.knobs.digest,
        "out": str(args.out),
        "steps": list(made.steps),
    }
    following = "".join(f"\n  {step}" for step in made.steps)
    if found is not None:
        value["registered"] = {"name": found.name, "version": found.version, "created": found.created}
        following += f"\nit is version {found.version} of `{found.name}` in the registry"
    console.result(value, f"{bundle.name}:{bundle.version} for {args.kind} is in {args.out}; then:{following}")
    return 0


def _triton(args: argparse.Namespace, console: Console) -> int:
    from packager.api import deploy
    from packager.cli._trust import verifier_of

    judge = verifier_of(args)
    with console:
        bundle = options.open_bundle(args, console)
        made = deploy.render_triton(
            bundle,
            args.out,
            judge,
            options.open_workspace(args, console),
            knobs=_knobs.read_sources(args),
            backend=args.backend or "native",
            site=args.site,
            swap=args.swap,
            raw=args.raw,
        )
    model, place, ensembles = made.model, made.model.place, made.model.ensembles
    value = {
        "name": model.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "knobs": made.knobs.digest,
        "number": model.number,
        "before": model.before,
        "created": model.created,
        "repository": place,
        "ensembles": ensembles,
    }
    following = "".join(f"\n  the ensemble {name} with it is version {number}" for name, number in ensembles.items())
    where = f"{place}/{model.name}"
    console.result(value, f"{bundle.name}:{bundle.version} is version {model.number} in {where}{following}")
    return 0


def _ensemble(args: argparse.Namespace, console: Console) -> int:
    from packager.api import deploy

    with console:
        chain = deploy.read_pipeline(Path(args.bundle))
        model = deploy.render_ensemble(chain, args.out, console)
    steps, place = [step.model for step in chain.steps], model.place
    value = {
        "name": model.name,
        "number": model.number,
        "before": model.before,
        "created": model.created,
        "steps": steps,
        "inputs": list(chain.inputs),
        "outputs": list(chain.outputs),
        "repository": place,
    }
    summary = f"{model.name} ({', '.join(steps)}) is version {model.number} in {place}/{model.name}"
    console.result(value, summary)
    return 0

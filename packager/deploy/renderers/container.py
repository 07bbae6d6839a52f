# SPDX-License-Identifier: Apache-2.0
"""A bundle as a container image: a Containerfile that only copies, and everything it copies.

    Containerfile      stages `runtime` (server and wheels), `model` (files alone), and both together
    site/              the carried wheels, unpacked: nothing is installed, downloaded or run by the build
    server/            start.py, health.py, and the server itself below app/
    model/             serve.json, deployment.json, and the bundle's files that the server opens or people ask for

The image runs as uid 65532 on a read-only root and needs neither a shell nor a package manager in its base image, only
the Python that the wheels are for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from packager.bundle.bundle import CARD, CONTRACT, RECORD, SBOM, Bundle
from packager.deploy import server_files
from packager.deploy.renderers import _deployment
from packager.deploy.renderers._deployment import Option, Rendered
from packager.errors import UsageError
from packager.knobs.knobs import FILE as KNOBS
from packager.knobs.knobs import Resolved
from packager.server.knobs import SECRETS

ABOUT = "a Containerfile and its context, from carried wheels"
DEFAULTS: Mapping[str, str] = {"server.host": "0.0.0.0"}  # noqa: S104 - the address inside a container
OPTIONS = (
    Option("base", "IMAGE", "an image with Python, pinned as name@sha256:…; no default", _deployment.IMAGE),
    _deployment.PLATFORM,
    _deployment.TARGET,
)
_RECORDS = (RECORD, CONTRACT, SBOM, KNOBS, f"{CARD}.md")


def render(bundle: Bundle, values: Resolved, options: Mapping[str, str]) -> Rendered:
    """Return the build context. Raises UsageError if the bundle does not carry the wheels."""
    base = _deployment.read_required(options, "base", "docker.io/library/python@sha256:…")
    contract = bundle.contract
    target = server_files.choose_target(contract, options["target"] or None)
    runtime = contract.targets[target].target.runtime
    platform, wheels = _deployment.select_wheels(bundle, runtime, options["platform"])
    copied = _deployment.select_blobs(bundle, _model(bundle, target))
    made = {
        "Containerfile": _containerfile(bundle, values, base),
        **{f"server/app/{path}": data for path, data in server_files.list_program(runtime).items()},
        "server/app/deployed.py": _deployment.read_template("deployed.py"),
        "server/start.py": _deployment.read_template("container/start.py"),
        "server/health.py": _deployment.read_template("container/health.py"),
        "model/serve.json": server_files.build_config(bundle, target),
    }
    own = {place.removeprefix("model/"): row for place, row in copied.items()}
    record = _deployment.build_record("container", bundle, values, {**options, "platform": platform}, own)
    made |= {f"model/{_deployment.RECORD}": record, _deployment.RECORD: record}
    tag = f"{bundle.name}:{bundle.version.replace('+', '-')}"
    port = values.values["server.port"]
    health = json.dumps(["python3", "-I", "/srv/health.py", _address(values)])
    steps = (
        f"buildah build --layers --timestamp 0 --tag {tag} OUT",
        f"podman run --read-only --cap-drop all --health-cmd '{health}' --publish {port}:{port} {tag}",
    )
    return Rendered(made, copied, steps, {f"site/{place}": path for place, path in wheels.items()})


def _model(bundle: Bundle, target: str) -> dict[str, str]:
    """Return what of the bundle goes into the image: what the server opens, and what says what it is."""
    paths = {
        *server_files.list_artefact(bundle, target),
        *server_files.list_reference(bundle),
        *server_files.list_pipeline(bundle),
        *(path for path in _RECORDS if bundle.tree.get(path)),
    }
    return {f"model/bundle/{path}": path for path in sorted(paths)}


def _containerfile(bundle: Bundle, values: Resolved, base: str) -> bytes:
    found = values.values
    ports = [found["server.port"], *([found["server.grpc_port"]] if "server.grpc_port" in found else [])]
    return _deployment.fill_template(
        "container/Containerfile",
        name=bundle.name,
        version=bundle.version,
        bundle=bundle.digest,
        base=base,
        knobs=values.digest,
        ports=" ".join(map(str, ports)),
        url=_address(values),
        command=", ".join(map(json.dumps, arguments(values))),
    )


def _address(values: Resolved) -> str:
    """Return where the server is, for who asks from inside."""
    return f"{'https' if 'tls.key' in values.values else 'http'}://127.0.0.1:{values.values['server.port']}"


def arguments(values: Resolved) -> list[str]:
    """Return the arguments of the server in the image. Raises UsageError for secrets that are no mounted files."""
    found = [f"--knobs={server_files.build_document(values)}"]
    for knob, option in SECRETS.items():
        reference = values.values.get(knob)
        if reference is None:
            continue
        kind, _, place = str(reference).partition(":")
        if kind != "file":
            raise UsageError(
                f"`{knob}`: an image takes secrets as mounted files", hint=f"--set {knob}=file:/run/secrets/…"
            )
        found.append(f"{option}={place}")
    return found

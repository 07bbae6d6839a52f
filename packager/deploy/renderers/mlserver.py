# SPDX-License-Identifier: Apache-2.0
"""A bundle as a model of MLServer: a directory that `mlserver start` serves, or one of several in a repository.

    model-settings.json  what MLServer reads: the class that it loads, inputs, outputs and which bundle it is
    settings.json        where MLServer listens; it reads the one in the directory that it is started with
    NAME/…               the reader of requests and the session of `packager serve`, and MLServer's class before them
    bundle/…             the files of the bundle that are opened: the graph, and what makes tensors of raw rows
    serve.json           the interface that it keeps to
    requirements.txt     the bundle's lock, and what MLServer needs beside it
    deployment.json      which bundle, which knobs, and the digest of every file, checked before one is opened

MLServer loads every `model-settings.json` below the directory, so a bundle that has a file of that name is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from packager import canonical
from packager.bundle.bundle import CARD, CONTRACT, RECORD, SBOM, Bundle
from packager.canonical import JSON
from packager.contract.contract import Port
from packager.deploy import server_files
from packager.deploy.renderers import _deployment, _program, _requirements
from packager.deploy.renderers._deployment import Rendered
from packager.errors import UsageError
from packager.knobs.knobs import Resolved
from packager.server.protocol.datatypes import DATATYPES

ABOUT = "a model of MLServer: `mlserver start`"
DEFAULTS: Mapping[str, str] = {}
OPTIONS = (_deployment.TARGET,)
_WHEELS = "mlserver/wheels.json"  # of MLServer 1.7.1, which was run
_RUNTIMES = ("onnxruntime",)
_SETTINGS = "model-settings.json"
_GRPC, _METRICS = 8081, 8082  # MLServer's own: both servers always run


def render(bundle: Bundle, values: Resolved, options: Mapping[str, str]) -> Rendered:
    """Return the files of the model's directory. Raises UsageError where nothing in the bundle runs in it."""
    server_files.refuse_texts(bundle, "MLServer")
    contract = bundle.contract
    target = server_files.choose_target(contract, options["target"] or None)
    runtime = contract.targets[target].target.runtime
    if runtime not in _RUNTIMES:
        raise UsageError(
            f"`{target}` is for {runtime}, which a model of MLServer does not run", hint="choose another with --target"
        )
    kept = {CONTRACT, SBOM, RECORD, *(path for path, _ in bundle.tree if path.startswith(f"{CARD}."))}
    paths = {
        *server_files.list_artefact(bundle, target),
        *server_files.list_pipeline(bundle),
        *server_files.list_reference(bundle),
    }
    paths |= {path for path in kept if bundle.tree.get(path)}
    _check_names(paths)
    copied = _deployment.select_blobs(bundle, {f"bundle/{path}": path for path in sorted(paths)})
    package = _program.name_package(bundle)
    own = _program.list_program(package, runtime, "mlserver/model.py")
    program = {"serve.json": server_files.build_config(bundle, target), **own}
    made = {
        **program,
        _SETTINGS: canonical.dump(_model(bundle, target, package)),
        "settings.json": canonical.dump(_settings(values)),
        "requirements.txt": _requirements.build_requirements(bundle, runtime, _WHEELS, "MLServer"),
        _deployment.RECORD: _deployment.build_record("mlserver", bundle, values, options, copied, program),
    }
    steps = ("pip install --require-hashes -r OUT/requirements.txt", "mlserver start OUT")
    return Rendered(made, copied, steps)


def _check_names(paths: set[str]) -> None:
    """Raise UsageError for a file of the bundle that MLServer would load as a model of its own, with any class."""
    for path in sorted(paths):
        if PurePosixPath(path).name == _SETTINGS:
            raise UsageError(
                f"`{path}` of the bundle has the name of MLServer's settings, which load any class of Python",
                hint="rename it in the source, or render another kind",
            )


def _model(bundle: Bundle, target: str, package: str) -> JSON:
    contract = bundle.contract
    return {
        "name": bundle.name,
        "implementation": f"{package}.model.Model",
        "platform": contract.targets[target].target.runtime,
        "inputs": _ports(contract.inputs),
        "outputs": _ports(contract.outputs),
        "parameters": {"version": bundle.version, "extra": {"bundle": bundle.digest, "target": target}},
    }


def _ports(ports: Sequence[Port]) -> list[JSON]:
    for port in ports:
        if port.dtype not in DATATYPES:
            raise UsageError(
                f"`{port.name}` is {port.dtype}, which the Open Inference Protocol does not have",
                hint="render another kind",
            )
    return [
        {
            "name": port.name,
            "datatype": DATATYPES[port.dtype],
            "shape": [size if isinstance(size, int) else -1 for size in port.shape],
        }
        for port in ports
    ]


def _settings(values: Resolved) -> JSON:
    """Return where MLServer listens; it runs the model in its own process, on threads."""
    found = values.values
    return {
        "host": found.get("server.host", "127.0.0.1"),
        "http_port": found.get("server.port", 8000),
        "grpc_port": found.get("server.grpc_port") or _GRPC,
        "metrics_port": _METRICS,
        "grpc_max_message_length": found.get("server.max_body", 64 << 20),
        "parallel_workers": 0,  # 1.7.1 starts none with the uvloop of today
        "debug": False,
    }

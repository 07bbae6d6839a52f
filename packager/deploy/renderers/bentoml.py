# SPDX-License-Identifier: Apache-2.0
"""A bundle as a Bento: a directory for `bentoml build`, whose model part BentoML imports as a model of its own.

    bentofile.yaml     for `bentoml build`; name, labels and packages
    service.py         a typed `/predict` with adaptive batching, and `/v2` beside it (openinference.py); where the
                       bundle has a pipeline, `/predict` takes rows as people have them, a request in a run of its own
    packager/…         the protocol and the sessions of `packager serve`
    bundle/pipeline/   what makes tensors of raw rows, where the bundle has it
    model/             the graph and its weights as `bentoml models import --input-format folder` reads them
    deployment.json    which bundle, which knobs, and the digests that the service checks at its start

The packages are those of the bundle's lock and beside them what BentoML needs (`templates/bentoml/wheels.json`, CPython
3.11 to 3.13 on Linux): exact versions, each with its hashes. `bentoml build` adds its own pin once more, without any.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from packager import canonical
from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.deploy import server_files
from packager.deploy.renderers import _deployment, _requirements
from packager.deploy.renderers._deployment import Rendered
from packager.errors import UsageError
from packager.knobs import catalogue
from packager.knobs.knobs import Resolved

ABOUT = "a Bento for `bentoml build` and `bentoml serve`"
DEFAULTS: Mapping[str, str] = {}
OPTIONS = (_deployment.TARGET,)
_WHEELS = "bentoml/wheels.json"  # of BentoML 1.4.39, which was run; the decorators used here are those of 1.4
_GRAPH = "saved_model.onnx"  # the name that `bentoml.onnx` opens
_RUNTIMES = ("onnxruntime",)


def render(bundle: Bundle, values: Resolved, options: Mapping[str, str]) -> Rendered:
    """Return the files of the Bento's directory. Raises UsageError if nothing in the bundle runs in it."""
    server_files.refuse_texts(bundle, "a Bento")
    contract = bundle.contract
    target = server_files.choose_target(contract, options["target"] or None)
    runtime = contract.targets[target].target.runtime
    if runtime not in _RUNTIMES:
        raise UsageError(
            f"`{target}` is for {runtime}, which a Bento does not run", hint="choose another with --target"
        )
    placed = {**_model(bundle, target), **{f"bundle/{path}": path for path in server_files.list_pipeline(bundle)}}
    copied = _deployment.select_blobs(bundle, placed)
    program = {path: data for path, data in server_files.list_program(runtime).items() if path.startswith("packager/")}
    config = canonical.load(server_files.build_config(bundle, target), limit=1 << 20)
    config["artefact"] = f"model/{_GRAPH}"
    made = {
        **program,
        "service.py": _deployment.read_template("bentoml/service.py"),
        "openinference.py": _deployment.read_template("bentoml/openinference.py"),
        "deployed.py": _deployment.read_template("deployed.py"),
        "serve.json": canonical.dump(config),
        "bentofile.yaml": _yaml(_bentofile(bundle, values)),
        "requirements.txt": _requirements.build_requirements(bundle, runtime, _WHEELS, "BentoML"),
        "model/model.yaml": _yaml(_about_model(bundle, target)),
        _deployment.RECORD: _deployment.build_record("bentoml", bundle, values, options, copied),
    }
    version = bundle.version.replace("+", "-")  # BentoML knows no build part
    steps = (
        f"cd OUT && bentoml build --version {version}",
        f"bentoml serve {bundle.name}:{version}",
        (
            "python -c 'import bentoml, pathlib; "
            'bentoml.models.import_model(str(pathlib.Path("model").resolve()), "folder")\''
        ),
    )
    return Rendered(made, copied, steps)


def _model(bundle: Bundle, target: str) -> dict[str, str]:
    """Return where the files of the artefact go; weights keep their names, because the graph refers to them."""
    graph = PurePosixPath(bundle.contract.targets[target].path)
    names = {
        path: str(PurePosixPath(path).relative_to(graph.parent)) for path in server_files.list_artefact(bundle, target)
    }
    return {f"model/{_GRAPH if path == str(graph) else name}": path for path, name in names.items()}


def _bentofile(bundle: Bundle, values: Resolved) -> JSON:
    labels = {"bundle": _label(bundle.digest), "knobs": _label(values.digest)}
    return {
        "service": "service:Model",
        "name": bundle.name,
        "description": f"{bundle.name} {bundle.version}, bundle {bundle.digest}",
        "labels": labels,
        "include": ["*.py", "*.json", "requirements.txt", "packager/**", "model/**", "bundle/**"],
        "python": {"requirements_txt": "requirements.txt", "lock_packages": False},
    }


def _label(digest: str) -> str:
    """Return what of a digest fits into a label: 63 characters."""
    return digest.removeprefix("sha256:")[:63]


def _about_model(bundle: Bundle, target: str) -> JSON:
    """Return `model.yaml` as `bentoml.onnx` writes it, but for the time, which no bundle has."""
    batched = catalogue.find_batch(bundle.contract.document) is not None
    return {
        "name": bundle.name,
        "version": bundle.version.replace("+", "-"),
        "module": "bentoml.onnx",
        "labels": {"bundle": _label(bundle.digest)},
        "options": {"providers": ["CPUExecutionProvider"]},
        "metadata": {"bundle": bundle.digest, "target": target},
        "context": {
            "framework_name": "onnx",
            "framework_versions": {},
            "bentoml_version": "1.4.39",
            "python_version": "3.11",
        },
        "signatures": {"run": {"batchable": batched, **({"batch_dim": [0, 0]} if batched else {})}},
        "api_version": "v2",
        "creation_time": "1980-01-01T00:00:00+00:00",
    }


def _yaml(value: JSON) -> bytes:
    return _deployment.yaml_text(value, sort=True)

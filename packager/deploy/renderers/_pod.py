# SPDX-License-Identifier: Apache-2.0
"""The pod in a cluster: restricted, read-only, without a token; the model comes from one of three places.

`embedded`: the image holds the model. `image-volume`: the model's own image is mounted (Kubernetes 1.33 and newer).
`init-container`: an image with packager pulls the bundle, verifies who signed it, and leaves it to the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.deploy import server_files
from packager.deploy.renderers import _deployment
from packager.errors import UsageError
from packager.knobs.knobs import Resolved
from packager.server.knobs import SECRETS

USER = 65532
VARIANTS = ("embedded", "image-volume", "init-container")
_MODEL, _CONFIG, _SECRETS, _TRUST = "/srv/model", "/srv/config", "/srv/secrets", "/srv/trust"
_LOG_MIB = 128  # of disk: Kubernetes turns a log over at 10 MiB and keeps five
_NOTICE = 5  # seconds between the removal of a pod's endpoint and SIGTERM
_RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a deployment's objects find each other: their common name, and the name of the configuration."""

    name: str
    config: str


def list_ports(values: Resolved) -> dict[str, int]:
    """Return the ports of the server by name."""
    found = {"http": values.values["server.port"]}
    return found | ({"grpc": values.values["server.grpc_port"]} if "server.grpc_port" in values.values else {})


def build_resources(bundle: Bundle, values: Resolved, options: Mapping[str, str]) -> JSON:
    """Return requests and limits: memory and disk are both, because a server that is pushed out of them is none."""
    cpu, disk = values.values.get("deploy.cpu", 1000), build_storage(bundle, options)
    memory = f"{_deployment.estimate_memory(bundle, values)}Mi"
    return {"requests": {"cpu": f"{cpu}m", "memory": memory, **disk}, "limits": {"memory": memory, **disk}}


def build_storage(bundle: Bundle, options: Mapping[str, str]) -> JSON:
    """Return what a pod keeps on its node's disk: its log, and the bundle that an init container fetches."""
    bundles = 2 * -(-bundle.size // (1 << 20)) if options["variant"] == "init-container" else 0
    return {"ephemeral-storage": f"{_LOG_MIB + bundles}Mi"}


def build_pod(bundle: Bundle, values: Resolved, options: Mapping[str, str], place: Place) -> JSON:
    """Return the pod's specification. Raises UsageError for options that are missing, and secrets of no cluster."""
    found = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            **_identity(options, "runAsUser", "runAsGroup", "fsGroup"),
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": int(values.values["server.drain"]) + _NOTICE + 10,
        "containers": [_server(bundle, values, options, place)],
        "volumes": _volumes(values, options, place),
    }
    if options["variant"] == "init-container":
        found["initContainers"] = [_fetch(bundle, options)]
    return {key: value for key, value in found.items() if value != []}


def _identity(options: Mapping[str, str], *members: str) -> JSON:
    """Return the user and groups of a pod, or nothing where the cluster gives them."""
    return {} if options["user"] == "any" else dict.fromkeys(members, int(options["user"]))


def _restricted(options: Mapping[str, str]) -> JSON:
    return {**_RESTRICTED, **_identity(options, "runAsUser")}


def _server(bundle: Bundle, values: Resolved, options: Mapping[str, str], place: Place) -> JSON:
    scheme = "HTTPS" if "tls.key" in values.values else "HTTP"
    probe = {"httpGet": {"path": "/v2/health/ready", "port": "http", "scheme": scheme}, "timeoutSeconds": 2}
    live = {"httpGet": {"path": "/v2/health/live", "port": "http", "scheme": scheme}, "timeoutSeconds": 5}
    start = bundle.contract.slo.get("cold_start_s", 60)
    own = options["variant"] == "init-container"
    command = {"command": ["python3", "-I", "/srv/start.py", f"{_CONFIG}/serve.json"]} if own else {}
    return {
        "name": "server",
        "image": _deployment.read_required(options, "image", "registry.example/digits@sha256:…"),
        "imagePullPolicy": "IfNotPresent",
        **command,
        "args": [
            "--knobs=$(KNOBS)",
            *(f"{SECRETS[knob]}={path}" for knob, path in _secrets(values).items()),
        ],
        "env": [{"name": "KNOBS", "valueFrom": {"configMapKeyRef": {"name": place.config, "key": "knobs.json"}}}],
        "ports": [
            {"name": name, "containerPort": port, "protocol": "TCP"} for name, port in list_ports(values).items()
        ],
        "resources": build_resources(bundle, values, options),
        "securityContext": _restricted(options),
        "startupProbe": {**probe, "periodSeconds": 2, "failureThreshold": max(30, int(start))},
        "readinessProbe": {**probe, "periodSeconds": 5, "failureThreshold": 2},
        "livenessProbe": {**live, "periodSeconds": 10, "failureThreshold": 3},
        "lifecycle": {"preStop": {"sleep": {"seconds": _NOTICE}}},
        "volumeMounts": _mounts(values, options),
    }


def _secrets(values: Resolved) -> dict[str, str]:
    """Return where each secret is mounted. Raises UsageError for one that is none of the cluster's."""
    found = {}
    for knob in SECRETS:
        reference = str(values.values.get(knob, ""))
        if reference and not reference.startswith("k8s:"):
            raise UsageError(f"`{knob}`: a cluster keeps secrets itself", hint=f"--set {knob}=k8s:NAME/KEY")
        if reference:
            found[knob] = f"{_SECRETS}/{knob}/{reference.rpartition('/')[2]}"
    return found


def _mounts(values: Resolved, options: Mapping[str, str]) -> list[JSON]:
    found = [
        {"name": knob.replace(".", "-"), "mountPath": f"{_SECRETS}/{knob}", "readOnly": True}
        for knob in _secrets(values)
    ]
    if options["variant"] != "embedded":
        found.append({"name": "model", "mountPath": _MODEL, "readOnly": True})
    if options["variant"] == "init-container":
        found.append({"name": "config", "mountPath": _CONFIG, "readOnly": True})
    return found


def _volumes(values: Resolved, options: Mapping[str, str], place: Place) -> list[JSON]:
    found: list[JSON] = []
    for knob in _secrets(values):
        name, _, key = str(values.values[knob]).removeprefix("k8s:").partition("/")
        source = {"secretName": name, "items": [{"key": key, "path": key}], "defaultMode": 0o440}
        found.append({"name": knob.replace(".", "-"), "secret": source})
    if options["variant"] == "image-volume":
        model = _deployment.read_required(options, "model-image", "registry.example/digits-model@sha256:…")
        found.append({"name": "model", "image": {"reference": model, "pullPolicy": "IfNotPresent"}})
    if options["variant"] == "init-container":
        items = [{"key": key, "path": key} for key in ("serve.json", "deployment.json")]
        found += [
            {"name": "model", "emptyDir": {}},
            {"name": "config", "configMap": {"name": place.config, "items": items}},
            {"name": "trust", "configMap": {"name": f"{place.name}-trust"}},
            {
                "name": "registry",
                "secret": {
                    "secretName": f"{place.name}-registry",
                    "optional": True,
                    "items": [{"key": ".dockerconfigjson", "path": "config.json"}],
                },
            },
            {"name": "scratch", "emptyDir": {}},
        ]
    return found


def _fetch(bundle: Bundle, options: Mapping[str, str]) -> JSON:
    """Return the container that pulls and verifies; the trust file is the site's, in a ConfigMap that it makes."""
    disk = build_storage(bundle, options)
    source = _deployment.read_required(options, "source", "oci://registry.example/digits@sha256:…")
    return {
        "name": "fetch",
        "image": _deployment.read_required(options, "init-image", "registry.example/packager@sha256:…"),
        "imagePullPolicy": "IfNotPresent",
        "command": [
            "packager",
            "unpack",
            source,
            f"{_MODEL}/bundle",
            "--trust",
            f"{_TRUST}/trust.json",
            "--state",
            "none",
        ],
        "env": [
            {"name": "HOME", "value": "/scratch"},
            {"name": "PACKAGER_STORE", "value": "/scratch/store"},
            {"name": "DOCKER_CONFIG", "value": "/srv/registry"},
        ],
        "resources": {"requests": {"cpu": "500m", "memory": "256Mi", **disk}, "limits": {"memory": "1Gi", **disk}},
        "securityContext": _restricted(options),
        "volumeMounts": [
            {"name": "model", "mountPath": _MODEL},
            {"name": "trust", "mountPath": _TRUST, "readOnly": True},
            {"name": "registry", "mountPath": "/srv/registry", "readOnly": True},
            {"name": "scratch", "mountPath": "/scratch"},
        ],
    }


def config_data(bundle: Bundle, values: Resolved, options: Mapping[str, str]) -> dict[str, str]:
    """Return what the ConfigMap holds: the knobs, and for an init container also the configuration of the server."""
    found = {"knobs.json": server_files.build_document(values)}
    if options["variant"] != "init-container":
        return found
    contract = bundle.contract
    target = server_files.choose_target(contract, options["target"] or None)
    runtime = contract.targets[target].target.runtime
    platform, _ = _deployment.select_wheels(bundle, runtime, options["platform"])
    served = (*server_files.list_artefact(bundle, target), *server_files.list_pipeline(bundle))
    paths = {f"{_MODEL}/bundle/{path}": path for path in served}
    record = _deployment.build_record(
        "kubernetes", bundle, values, {"platform": platform}, _deployment.select_blobs(bundle, paths)
    )
    config = server_files.build_config(bundle, target, f"{_MODEL}/bundle")
    return found | {"serve.json": config.decode(), _deployment.RECORD: record.decode()}

# SPDX-License-Identifier: Apache-2.0
"""A bundle in a cluster: plain manifests, a KServe InferenceService, and a Helm chart of the same objects.

    manifests/*.yaml           ServiceAccount, ConfigMap, Deployment, Service, NetworkPolicy, PodDisruptionBudget, and
                               where `deploy.max_replicas` is more than `deploy.replicas` a HorizontalPodAutoscaler
    manifests/podmonitor.yaml  with --monitoring: Prometheus' operator reads /metrics, and the NetworkPolicy lets it in
    kserve/inferenceservice.yaml   the same pod for KServe
    init-image/Containerfile   with --variant init-container: how its image is made
    chart/                     the same objects; values.schema.json admits no other value than values.yaml has
    admission/                 with --admission: the policy by which a cluster runs only what a trusted signer signed

Knobs are in the ConfigMap, whose name changes with them: turning one is a rolling update, and the way back is one too.
Secrets are references to those of the cluster. Images are pinned by digest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.deploy.renderers import _admission, _chart, _deployment, _pod
from packager.deploy.renderers._deployment import Option, Rendered, yaml_text
from packager.deploy.renderers._pod import Place
from packager.errors import UsageError
from packager.knobs.knobs import Resolved
from packager.trust import keys
from packager.trust.model import Trust

ABOUT = "manifests, a KServe InferenceService and a Helm chart"
DEFAULTS: Mapping[str, str] = {"server.host": "0.0.0.0"}  # noqa: S104 - the address inside a pod
_SPACE = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
OPTIONS = (
    Option("image", "IMAGE", "the server's image, pinned as name@sha256:…; no default", _deployment.IMAGE),
    Option(
        "variant",
        "NAME",
        "embedded, image-volume or init-container; default: embedded",
        "|".join(_pod.VARIANTS),
        "embedded",
    ),
    Option("model-image", "IMAGE", "the model's image, pinned as name@sha256:…; for image-volume", _deployment.IMAGE),
    Option(
        "init-image", "IMAGE", "an image with packager, pinned as name@sha256:…; for init-container", _deployment.IMAGE
    ),
    Option(
        "source",
        "URL",
        "where the bundle is, such as oci://host/name@sha256:…; for init-container",
        r"(oci|s3|https)://[A-Za-z0-9][A-Za-z0-9._:/@-]{0,300}",
    ),
    Option("namespace", "NAME", "the name of a namespace; default: that of `kubectl`", _SPACE),
    Option(
        "monitoring",
        "NAMESPACE",
        "the name of the namespace of Prometheus, which may then read the metrics; default: none may from outside",
        _SPACE,
    ),
    Option(
        "user",
        "UID",
        "a user id, or `any` where the cluster gives one (OpenShift); default: 65532",
        r"any|[1-9][0-9]{0,9}",
        str(_pod.USER),
    ),
    Option(
        "admission",
        "TOOL",
        "kyverno, policy-controller, policy.json or connaisseur: who shall admit only images that a trusted signer "
        "signed; "
        "default: none",
        "|".join(re.escape(kind) for kind in _admission.KINDS),
    ),
    Option(
        "admission-scope",
        "PREFIX",
        "a host, host/path or repository whose images --admission judges, or `all`; "
        "default: the repositories of the images that are named",
        _admission.SCOPE,
    ),
    Option(
        "admission-mirror",
        "URL",
        "the http(s) address where OUT/admission/tuf/ will be served; for kyverno with a pinned instance",
        r"https?://[A-Za-z0-9][A-Za-z0-9._:/-]{0,300}",
    ),
    Option(
        "admission-key",
        "FILE",
        "a private key (PEM) that signs OUT/admission/tuf/; keep it for the next rendering",
        r"[^\0]{1,4096}",
    ),
    _deployment.PLATFORM,
    _deployment.TARGET,
)


def render(bundle: Bundle, values: Resolved, options: Mapping[str, str]) -> Rendered:
    """Return the manifests and the chart. Raises UsageError for options that are missing or do not fit together."""
    found = values.values
    low, high = found.get("deploy.replicas", 2), found.get("deploy.max_replicas", 2)
    if high < low:
        raise UsageError(f"`deploy.max_replicas`: expected at least `deploy.replicas` ({low}), got {high}")
    name = _name(bundle.name)
    objects = _objects(bundle, values, options, name)
    made = {f"manifests/{kind.lower()}.yaml": yaml_text(value) for kind, value in objects.items()}
    made["kserve/inferenceservice.yaml"] = yaml_text(_inference_service(objects["Deployment"], low, high))
    made["kserve/configmap.yaml"] = made["manifests/configmap.yaml"]
    released = _objects(bundle, values, {**options, "namespace": ""}, _chart.RELEASE, scales=True)
    made |= {f"chart/{path}": text for path, text in _chart.build_files(bundle, values, options, released).items()}
    if options["variant"] == "init-container":
        made["init-image/Containerfile"] = _deployment.read_template("container/Containerfile.init")
    recorded = {name: value for name, value in options.items() if value or not name.startswith("admission")}
    recorded.pop("admission-key", None)
    made[_deployment.RECORD] = _deployment.build_record("kubernetes", bundle, values, recorded, {})
    steps = (
        "kubectl apply --server-side -f OUT/manifests/",
        f"kubectl rollout status deployment/{name}",
        f"or: helm upgrade --install {name} OUT/chart --atomic",
    )
    return Rendered(made, {}, steps)


def with_policy(
    rendered: Rendered,
    bundle: Bundle,
    options: Mapping[str, str],
    trust: Trust,
    secret: Callable[[], bytes | None],
) -> Rendered:
    """Add what makes a cluster admit only images that `trust` has a signer for. Raises UsageError.

    `secret` returns the passphrase of the key that the option `admission-key` names.
    """
    kind, file = options["admission"], options["admission-key"]
    if not kind:
        for name in ("admission-scope", "admission-mirror", "admission-key"):
            if options[name]:
                raise UsageError(f"--{name} goes with --admission")
        return rendered
    pulled = {"embedded": "image", "image-volume": "model-image", "init-container": "init-image"}[options["variant"]]
    images = [options["image"], options[pulled]]
    open_key = partial(keys.load_private, Path(file), secret) if file else None
    policy = _admission.build_files(kind, _name(bundle.name), trust, images, options, open_key)
    steps = _admission.list_steps(kind, policy, options)
    return replace(rendered, made={**rendered.made, **policy}, steps=(*steps, *rendered.steps))


def _name(name: str) -> str:
    """Return a bundle's name as a DNS label (RFC 1035) that leaves room for what is added to it."""
    label = re.sub(r"[^a-z0-9]+", "-", name)[:40].strip("-")
    return label if label[0].isalpha() else f"m-{label}"


def _meta(bundle: Bundle, values: Resolved, options: Mapping[str, str], place: Place) -> JSON:
    labels = {
        "app.kubernetes.io/name": place.name,
        "app.kubernetes.io/version": re.sub(r"[^A-Za-z0-9._-]", "_", bundle.version)[:63].strip("._-"),
        "app.kubernetes.io/managed-by": "packager",
    }
    annotations = {"packager/bundle": bundle.digest, "packager/knobs": values.digest, "packager/name": bundle.name}
    space = {"namespace": options["namespace"]} if options["namespace"] else {}
    return {"name": place.name, **space, "labels": labels, "annotations": annotations}


def _objects(
    bundle: Bundle, values: Resolved, options: Mapping[str, str], name: str, *, scales: bool = False
) -> dict[str, JSON]:
    """Return the objects by kind; with `scales` the autoscaler in any case, for a chart that decides later."""
    low, high = values.values.get("deploy.replicas", 2), values.values.get("deploy.max_replicas", 2)
    place = Place(name, f"{name}-{values.digest.removeprefix('sha256:')[:10]}")
    about = _meta(bundle, values, options, place)
    selector = {"matchLabels": {"app.kubernetes.io/name": place.name}}
    ports = _pod.list_ports(values)
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": selector,
    }
    pod = {
        **_pod.build_pod(bundle, values, options, place),
        "serviceAccountName": name,
        "topologySpreadConstraints": [spread],
    }
    template = {"metadata": {"labels": about["labels"], "annotations": about["annotations"]}, "spec": pod}
    scaled = scales or high > low
    deployment = {
        **({} if scaled else {"replicas": low}),  # an autoscaler's to say: an apply would set it back
        "revisionHistoryLimit": 5,
        "selector": selector,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": template,
    }
    protocols = {"http": "http", "grpc": "kubernetes.io/h2c"}
    listed = [
        {"name": port, "port": number, "targetPort": port, "protocol": "TCP", "appProtocol": protocols[port]}
        for port, number in ports.items()
    ]
    found = {
        "ServiceAccount": _object("v1", "ServiceAccount", about, automountServiceAccountToken=False),
        "ConfigMap": _object(
            "v1",
            "ConfigMap",
            {**about, "name": place.config},
            immutable=True,
            data=_pod.config_data(bundle, values, options),
        ),
        "Deployment": _object("apps/v1", "Deployment", about, spec=deployment),
        "Service": _object("v1", "Service", about, spec={"selector": selector["matchLabels"], "ports": listed}),
        "NetworkPolicy": _network_policy(about, selector, ports, options),
        "PodDisruptionBudget": _object(
            "policy/v1", "PodDisruptionBudget", about, spec={"maxUnavailable": 1, "selector": selector}
        ),
    }
    if options["monitoring"]:
        found["PodMonitor"] = _pod_monitor(about, selector, values)
    if scaled:
        found["HorizontalPodAutoscaler"] = _autoscaler(about, place, low, high)
    return found


def _network_policy(about: JSON, selector: JSON, ports: Mapping[str, int], options: Mapping[str, str]) -> JSON:
    """Return a policy that lets the namespace and its Prometheus in and nothing out.

    An init container needs its registry and DNS.
    """
    listed = [{"protocol": "TCP", "port": port} for port in ports.values()]
    fetching = [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}, {"protocol": "TCP", "port": 443}]
    spec = {
        "podSelector": selector,
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [{"podSelector": {}}], "ports": listed}],
        "egress": [{"ports": fetching}] if options["variant"] == "init-container" else [],
    }
    if options["monitoring"]:
        named = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": options["monitoring"]}}}
        spec["ingress"].append({"from": [named], "ports": listed[:1]})
    return _object("networking.k8s.io/v1", "NetworkPolicy", about, spec=spec)


def _pod_monitor(about: JSON, selector: JSON, values: Resolved) -> JSON:
    """Return what Prometheus' operator reads: every server's metrics, over TLS as unverified as a probe's."""
    secured = {"scheme": "https", "tlsConfig": {"insecureSkipVerify": True}} if "tls.key" in values.values else {}
    endpoint = {"port": "http", "path": "/metrics", "interval": "30s", **secured}
    return _object(
        "monitoring.coreos.com/v1", "PodMonitor", about, spec={"selector": selector, "podMetricsEndpoints": [endpoint]}
    )


def _autoscaler(about: JSON, place: Place, low: int, high: int) -> JSON:
    cpu = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": place.name},
        "minReplicas": low,
        "maxReplicas": high,
        "metrics": [cpu],
    }
    return _object("autoscaling/v2", "HorizontalPodAutoscaler", about, spec=spec)


def _inference_service(deployment: JSON, low: int, high: int) -> JSON:
    """Return KServe's object around the same pod; its own name for the container is fixed."""
    about, pod = deployment["metadata"], deployment["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    predictor = {**pod, "minReplicas": low, "maxReplicas": high, "containers": [{**server, "name": "kserve-container"}]}
    raw = {"serving.kserve.io/deploymentMode": "RawDeployment"}
    annotated = {**about, "annotations": {**about["annotations"], **raw}}
    return _object("serving.kserve.io/v1beta1", "InferenceService", annotated, spec={"predictor": predictor})


def _object(version: str, kind: str, about: JSON, **members: JSON) -> JSON:
    return {"apiVersion": version, "kind": kind, "metadata": about, **members}

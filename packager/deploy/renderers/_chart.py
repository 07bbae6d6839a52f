# SPDX-License-Identifier: Apache-2.0
"""The Helm chart of a bundle: the manifests with gaps, and a schema that says what may be put into them.

What a release may change is where it runs (images by digest, replicas, resources, scheduling), never how the model is
served: that is the knobs, which are resolved, bounded and have a digest, and are rendered again to be changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.deploy.renderers import _deployment, _pod
from packager.deploy.renderers._deployment import yaml_text
from packager.knobs.knobs import Resolved

RELEASE = "@@release@@"  # what stands for the release's name while the objects are made
_NAME = '.Release.Name | trunc 40 | trimSuffix "-"'
_SCALES = "gt (int .Values.maxReplicas) (int .Values.replicas)"
_IMAGES = {"image": "image", "model-image": "modelImage", "init-image": "initImage"}


def build_files(
    bundle: Bundle, values: Resolved, options: Mapping[str, str], objects: Mapping[str, JSON]
) -> dict[str, bytes]:
    """Return the chart by path; `objects` are those of a release called RELEASE."""
    given = _values(bundle, values, options)
    chart = {
        "apiVersion": "v2",
        "name": re.sub(r"[^a-z0-9]+", "-", bundle.name)[:63].strip("-"),
        "type": "application",
        "version": bundle.version,
        "appVersion": bundle.version,
        "kubeVersion": ">=1.30.0-0",
        "description": f"{bundle.name} {bundle.version}, bundle {bundle.digest}",
        "annotations": {"packager/bundle": bundle.digest, "packager/knobs": values.digest},
    }
    found = {"Chart.yaml": yaml_text(chart), "values.yaml": yaml_text(given), "values.schema.json": _schema(given)}
    for kind, value in objects.items():
        text = _with_gaps(yaml_text(_opened(kind, value, options)).decode())
        if kind == "HorizontalPodAutoscaler":
            text = f"{{{{- if {_SCALES} }}}}\n{text}{{{{- end }}}}\n"
        found[f"templates/{kind.lower()}.yaml"] = text.encode()
    return found


def _values(bundle: Bundle, values: Resolved, options: Mapping[str, str]) -> JSON:
    return {
        **{short: options[name] for name, short in _IMAGES.items() if options[name]},
        "replicas": values.values.get("deploy.replicas", 2),
        "maxReplicas": values.values.get("deploy.max_replicas", 2),
        "resources": _pod.build_resources(bundle, values, options),
        "imagePullSecrets": [],
        "nodeSelector": {},
        "tolerations": [],
        "affinity": {},
        "podAnnotations": {},
    }


def _schema(given: JSON) -> bytes:
    """Return the JSON Schema of values, which Helm itself holds them against."""
    word = {"type": "string"}
    closed, texts = {"type": "object", "additionalProperties": False}, {"type": "object", "additionalProperties": word}
    kinds: dict[str, JSON] = {
        "replicas": {"type": "integer", "minimum": 1, "maximum": 1000},
        "maxReplicas": {"type": "integer", "minimum": 1, "maximum": 1000},
        "resources": {**closed, "properties": {"requests": texts, "limits": texts}},
        "imagePullSecrets": {"type": "array", "items": {**closed, "required": ["name"], "properties": {"name": word}}},
        "nodeSelector": texts,
        "tolerations": {"type": "array", "items": {"type": "object"}},
        "affinity": {"type": "object"},
        "podAnnotations": texts,
    }
    image = {"type": "string", "pattern": f"^{_deployment.IMAGE}$"}
    properties = {name: kinds.get(name, image) for name in given} | {"global": {"type": "object"}}
    value = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "required": sorted({*given} & {*_IMAGES.values()}),
    }
    return json.dumps(value, indent=2).encode() + b"\n"


def _opened(kind: str, value: JSON, options: Mapping[str, str]) -> JSON:
    """Return an object with gaps where values go."""
    if kind == "HorizontalPodAutoscaler":
        bounds = {"minReplicas": "@@int replicas@@", "maxReplicas": "@@int maxReplicas@@"}
        return {**value, "spec": {**value["spec"], **bounds}}
    if kind != "Deployment":
        return value
    template = value["spec"]["template"]
    pod = {**template["spec"]}
    for part in ("containers", "initContainers", "volumes"):
        if part in pod:
            pod[part] = [_opened_part(item, options) for item in pod[part]]
    pod |= {name: f"@@yaml {name}@@" for name in ("imagePullSecrets", "nodeSelector", "tolerations", "affinity")}
    annotations = {**template["metadata"]["annotations"], "@@more podAnnotations@@": ""}
    template = {"metadata": {**template["metadata"], "annotations": annotations}, "spec": pod}
    return {**value, "spec": {"replicas": "@@replicas@@", **value["spec"], "template": template}}


def _opened_part(item: JSON, options: Mapping[str, str]) -> JSON:
    gaps = {options[name]: f"@@text {short}@@" for name, short in _IMAGES.items() if options[name]}
    if item.get("name") == "server":
        return {**item, "image": "@@text image@@", "resources": "@@yaml resources@@"}
    if "reference" in item.get("image", {}):
        return {**item, "image": {**item["image"], "reference": "@@text modelImage@@"}}
    return {**item, "image": gaps[item["image"]]} if item.get("image") in gaps else item


def _with_gaps(text: str) -> str:
    """Return YAML whose gaps are Helm's actions; what looks like one in names of others is only text."""
    text = text.replace("{{", '{{ "{{" }}')
    text = text.replace(RELEASE, f"{{{{ {_NAME} }}}}")
    text = re.sub(r"'@@int (\w+)@@'", r"{{ int .Values.\1 }}", text)
    text = re.sub(r"'@@text (\w+)@@'", r"{{ .Values.\1 | quote }}", text)
    text = re.sub(r"^( *)(\w+): '@@yaml (\w+)@@'$", _structure, text, flags=re.MULTILINE)
    text = re.sub(
        r"^( *)replicas: '@@replicas@@'$",
        rf"{{{{- if not ({_SCALES}) }}}}\n\1replicas: {{{{ int .Values.replicas }}}}\n{{{{- end }}}}",
        text,
        flags=re.MULTILINE,
    )
    return re.sub(r"^( *)'@@more (\w+)@@': ''$", _members, text, flags=re.MULTILINE)


def _members(found: re.Match[str]) -> str:
    indent, name = found.groups()
    return f"{{{{- with .Values.{name} }}}}\n{indent}{{{{- toYaml . | nindent {len(indent)} }}}}\n{{{{- end }}}}"


def _structure(found: re.Match[str]) -> str:
    indent, key, name = found.groups()
    return f"{indent}{key}: {{{{- toYaml .Values.{name} | nindent {len(indent) + 2} }}}}"

# SPDX-License-Identifier: Apache-2.0
"""What holds of a Tekton Task: the fields of its API, Kubernetes' schema of what a step becomes, IBM's linter.

`TASK` is written after the types `tekton.dev/v1` of tektoncd/pipeline (pkg/apis/pipeline/v1): every field of a Task that
our file could use, with its type. Sidecars, volumes and step templates are left out, so a file with one is refused here.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support import environments

_TEXT = {"type": "string"}
_NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}


def _object(required: list[str], **members: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": required, "properties": members}


def _list(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


_VALUE = {"type": ["string", "array", "object"]}
_DURATION = {"type": "string", "pattern": r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"}
_RESULT = _object(["name"], name=_TEXT, description=_TEXT, type={"enum": ["string", "array", "object"]}, value=_VALUE)
_PARAM = _object(
    ["name"],
    name={"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_.-]*$"},
    description=_TEXT,
    type={"enum": ["string", "array", "object"]},
    default=_VALUE,
    enum=_list(_TEXT),
)
_WORKSPACE = _object(
    ["name"],
    name=_TEXT,
    description=_TEXT,
    mountPath=_TEXT,
    optional={"type": "boolean"},
    readOnly={"type": "boolean"},
)
_STEP = _object(
    ["name", "image"],
    name=_NAME,
    displayName=_TEXT,
    image=_TEXT,
    imagePullPolicy={"enum": ["Always", "Never", "IfNotPresent"]},
    command=_list(_TEXT),
    args=_list(_TEXT),
    script=_TEXT,
    workingDir=_TEXT,
    env={"type": "array"},
    envFrom={"type": "array"},
    onError={"enum": ["continue", "stopAndFail"]},
    results=_list(_RESULT),
    securityContext={"type": "object"},
    computeResources={"type": "object"},
    timeout=_DURATION,
    volumeMounts={"type": "array"},
    workspaces=_list(_object(["name", "mountPath"], name=_TEXT, mountPath=_TEXT)),
)
_SPEC = _object(
    ["steps"],
    description=_TEXT,
    displayName=_TEXT,
    params=_list(_PARAM),
    results=_list(_RESULT),
    workspaces=_list(_WORKSPACE),
    steps={"type": "array", "minItems": 1, "items": _STEP},
)
TASK = _object(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "tekton.dev/v1"},
    kind={"const": "Task"},
    metadata=_object(["name"], name=_NAME, labels={"type": "object"}, annotations={"type": "object"}),
    spec=_SPEC,
)
_OF_TEKTON = ("displayName", "script", "onError", "results", "computeResources", "timeout", "workspaces")


def check_as_pod(task: Mapping[str, Any], place: Path) -> tuple[bool, str]:
    """Return whether Kubernetes' schema accepts the containers that the steps become, and what was said."""
    steps = [{key: step[key] for key in step if key not in _OF_TEKTON} for step in task["spec"]["steps"]]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": task["metadata"], "spec": {"containers": steps}}
    file = place / "pod.json"
    file.write_text(json.dumps(pod))
    python = environments.python_with("kubernetes-validate==1.37.0", scripts=True)
    command = [python.with_name("kubernetes-validate"), "--strict", file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode == 0, done.stdout + done.stderr


def lint(path: Path) -> set[str]:
    """Return the rules of IBM's tekton-lint that a file breaks."""
    modules = environments.node_with("@ibm/tekton-lint@1.1.0")
    command = ["node", modules / "@ibm/tekton-lint/dist/lint.js", "--format", "json", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    return {item["rule"] for item in json.loads(done.stdout)}


def fill(text: str, values: Mapping[str, str]) -> str:
    """Return text with Tekton's variables, such as `params.until`, replaced; one that has no value is a KeyError."""
    return re.sub(r"\$\(((?:params|workspaces|context|steps|results)\.[^)]+)\)", lambda found: values[found[1]], text)

# SPDX-License-Identifier: Apache-2.0
"""What every verb prints with `--json`, as a JSON Schema that scripts can hold its documents against.

Members are in snake_case. Documents of other formats inside (a contract, an SBOM, a trust file, a result of the suite)
keep their own spelling. An error is the same document whatever the verb.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from packager.errors import UsageError, did_you_mean


def build_schema() -> bytes:
    """Return the JSON Schema of all verbs: those are under `$defs/verbs`."""
    return resources.files("packager.cli").joinpath("output.schema.json").read_bytes()


def of_verb(name: str) -> Any:
    """Return the schema of what one verb prints, an error included. Raises UsageError for a verb that there is not."""
    whole = json.loads(build_schema())
    shared = whole["$defs"]
    verbs = shared.pop("verbs")
    if name not in verbs:
        raise UsageError(f"`{name:.60}` is no verb whose output is described", hint=did_you_mean(name, verbs))
    title = f"What `packager {name}` prints with --json"
    form = {"anyOf": [verbs[name], {"$ref": "#/$defs/error"}]}
    return {"$schema": whole["$schema"], "$id": f"{whole['$id']}:{name}", "title": title, **form, "$defs": shared}

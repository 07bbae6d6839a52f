# SPDX-License-Identifier: Apache-2.0
"""The resolved knobs of this deployment, as the one who started it resolved and checked them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

# What says where a server is and what it tells, not how it answers. `packager.deploy.server_files` has the same list.
_PLACE = re.compile(r"server\.(host|port|grpc_port)|(deploy|log|metrics|tracing|bentoml)\..+")
_SHOWN = (str, int, float, bool, list, dict)


@dataclass(frozen=True, slots=True)
class Knobs:
    """Values by name and the digest that identifies them together with the bundle; empty where nobody resolved any."""

    digest: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def parse(text: str) -> Knobs:
        """Read the JSON of `--knobs`. Raises ValueError."""
        value = orjson.loads(text)
        if not isinstance(value, dict) or set(value) != {"digest", "values"} or not isinstance(value["values"], dict):
            raise ValueError("expected `digest` and `values`")
        if not isinstance(value["digest"], str) or not re.fullmatch(r"sha256:[0-9a-f]{64}", value["digest"]):
            raise ValueError("expected a digest")
        if not all(isinstance(member, _SHOWN) for member in value["values"].values()):
            raise ValueError("expected values")
        return Knobs(value["digest"], value["values"])

    @property
    def tuning(self) -> str:
        """Return the digest of the values that change how requests are answered; empty where nobody resolved any."""
        if not self.digest:
            return ""
        kept = {name: value for name, value in self.values.items() if not _PLACE.fullmatch(name)}
        return f"sha256:{hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()}"

    @property
    def labels(self) -> dict[str, str]:
        """Return the labels of the site for metrics; `site` of them becomes `site_site`, so that none hides ours."""
        return {f"site_{name}": text for name, text in self.values.get("metrics.labels", {}).items()}

    def to_json(self) -> dict[str, Any]:
        return {"digest": self.digest, "values": dict(self.values)}

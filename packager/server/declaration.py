# SPDX-License-Identifier: Apache-2.0
"""The declaration of a knob: its kind, unit, bounds and default, and which values these allow.

`packager.server.knobs` declares the server's own knobs with it; `packager.knobs` writes and reads the JSON Schema of a
bundle.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal[
    "integer", "number", "boolean", "choice", "host", "secret", "labels", "integers", "path", "origins"
]
Needs: TypeAlias = Literal["restart", "reload"]

MAX_LABELS = 16
MAX_ITEMS = 64
LABEL = r"[a-z][a-z0-9_]{0,31}"
PATTERNS: Mapping[str, str] = {
    "host": r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[0-9A-Fa-f:.]{2,45}",
    "secret": r"file:(/[A-Za-z0-9_@%+=,-][A-Za-z0-9._@%+=,-]{0,99}){1,16}|env:[A-Z][A-Z0-9_]{0,63}"
    r"|k8s:[a-z0-9][a-z0-9.-]{0,99}/[A-Za-z0-9_][A-Za-z0-9._-]{0,99}",
    "path": r"(/[A-Za-z0-9._~-]{1,64}){1,8}",
    "origins": r"\*|https?://[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?(:[0-9]{1,5})?",
    "labels": r"[A-Za-z0-9]([A-Za-z0-9 ._:/@+-]{0,61}[A-Za-z0-9])?",
}
_EXPECTED = {
    "host": "a host name or address",
    "secret": "where the secret is: file:/absolute/path, env:NAME or k8s:secret/key",
    "labels": "up to 63 letters, digits and ` ._:/@+-`",
    "path": "a path such as /models/digits, without an end slash",
    "origins": "origins such as https://app.example.org, or *",
    "boolean": "true or false",
    "integers": f"up to {MAX_ITEMS} different whole numbers",
}


@dataclass(frozen=True, slots=True)
class Knob:
    """One setting. `default` None: not set unless a site does. `needs`: what a new value takes to have effect."""

    name: str
    kind: Kind
    about: str
    default: Any = None
    low: float = 0
    high: float = 0
    choices: tuple[str, ...] = ()
    unit: str | None = None
    needs: Needs = "restart"

    def expected(self) -> str:
        """Return a phrase for the allowed values."""
        if self.kind == "choice":
            return "one of " + ", ".join(f"`{choice}`" for choice in self.choices)
        if self.kind in ("integer", "number"):
            whole = "a whole number" if self.kind == "integer" else "a number"
            return f"{whole} from {self.low:g} to {self.high:.15g}{f' {self.unit}' if self.unit else ''}"
        return _EXPECTED[self.kind]

    def allows(self, value: Any) -> bool:
        """Return whether `value`, of its JSON type, may be set."""
        match self.kind:
            case "integer":
                return type(value) is int and self.low <= value <= self.high
            case "number":
                return type(value) in (int, float) and self.low <= value <= self.high
            case "boolean":
                return type(value) is bool
            case "choice":
                return isinstance(value, str) and value in self.choices
            case "integers":
                return (
                    isinstance(value, list)
                    and len({*map(repr, value)}) == len(value) <= MAX_ITEMS
                    and all(type(item) is int and self.low <= item <= self.high for item in value)
                )
            case "origins":
                return (
                    isinstance(value, list)
                    and len({*map(repr, value)}) == len(value) <= MAX_ITEMS
                    and all(_matches("origins", item) for item in value)
                )
            case "labels":
                return (
                    isinstance(value, dict)
                    and len(value) <= MAX_LABELS
                    and all(re.fullmatch(LABEL, key) and _matches("labels", text) for key, text in value.items())
                )
            case "host" | "secret" | "path":
                return _matches(self.kind, value)

    def read(self, text: str) -> Any:
        """Parse the text of an environment variable or an option; return it unchanged if it is no such value."""
        if self.kind == "boolean":
            return {"true": True, "false": False}.get(text, text)
        if self.kind == "origins":
            return [part.strip() for part in text.split(",")] if text else []
        if self.kind == "integers":
            parts = [part.strip() for part in text.split(",")] if text else []
            return [int(part) for part in parts] if all(map(_is_whole, parts)) else text
        if self.kind in ("integer", "number") and _is_whole(text):
            return int(text)
        if self.kind == "number" and re.fullmatch(r"-?[0-9]{1,15}\.[0-9]{1,15}", text):
            return float(text)
        return text


def _is_whole(text: str) -> bool:
    return re.fullmatch(r"-?(0|[1-9][0-9]{0,15})", text) is not None


def _matches(kind: str, value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(PATTERNS[kind], value) is not None

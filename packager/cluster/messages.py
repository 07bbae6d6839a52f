# SPDX-License-Identifier: Apache-2.0
"""What crosses between a release and the nodes of a cluster: requests and answers, as JSON that both ends check.

A request names an action, its inputs by digest, limits and the shared store; it holds no secret. An answer is one of

    result    the tree that the step left, by digest, its facts, and how its worker was confined
    error     the step failed: what a local build would say
    refused   this node cannot perform it, nor any other such node: another version, a tool that is missing
    lost      it was not performed, for no fault of the model: it is worth another attempt
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from packager import canonical, edits, json_schema
from packager.canonical import JSON
from packager.errors import MissingToolError, PackagerError, SourceError, StepError, StorageError, TooNewError
from packager.sandbox.sandbox import LEVELS, LIMITS, USERS
from packager.types import Action, Blob, check_digest

MAX_MESSAGE = 256 << 20  # bytes of one request or answer; facts of a step have 64 MiB at most
_LONGEST = 4000  # characters of a message or log
_TEXT: JSON = {"type": "string"}
_MAYBE: JSON = {"anyOf": [{"type": "string"}, {"type": "null"}]}
_SAID: JSON = {
    "type": "object",
    "required": ["message", "hint"],
    "properties": {"message": _TEXT, "hint": _MAYBE},
    "additionalProperties": False,
}
_RESULT: JSON = {
    "type": "object",
    "required": ["tree", "size", "facts", "confinement", "seconds", "executed"],
    "properties": {
        "tree": {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"},
        "size": {"type": "integer", "minimum": 0},
        "facts": {},
        "confinement": {
            "type": "object",
            "required": ["level", "seccomp", "landlock", "user", "limits"],
            "properties": {
                "level": {"enum": list(LEVELS)},
                "seccomp": {"type": "boolean"},
                "landlock": {"type": "boolean"},
                "user": {"enum": list(USERS)},
                "limits": {"enum": list(LIMITS)},
            },
            "additionalProperties": False,
        },
        "seconds": {"type": "number", "minimum": 0},
        "executed": {"type": "boolean"},
    },
    "additionalProperties": False,
}
_ERROR: JSON = {
    "type": "object",
    "required": ["message", "hint", "log", "died", "edits", "needs"],
    "properties": {
        "message": _TEXT,
        "hint": _MAYBE,
        "log": _TEXT,
        "died": {"type": "boolean"},
        "edits": {"type": "array"},
        "needs": {"anyOf": [{"type": "array", "minItems": 3, "maxItems": 3}, {"type": "null"}]},
    },
    "additionalProperties": False,
}
_FORMS: Mapping[str, JSON] = {"result": _RESULT, "error": _ERROR, "refused": _SAID, "lost": _SAID}


@dataclass(frozen=True, slots=True)
class Needs:
    """What a node must have for a step: processors, bytes of memory (0: no matter), GPUs, and of which type."""

    cpus: int = 1
    memory: int = 0
    gpus: int = 0
    accelerator: str | None = None

    def to_json(self) -> JSON:
        return asdict(self)

    @staticmethod
    def from_json(value: JSON) -> Needs:
        """Return what `to_json` wrote."""
        return Needs(**value)


@dataclass(frozen=True, slots=True)
class Place:
    """The shared store and how nodes reach it; `registry_ca` is the text of certificates, which are no secret."""

    address: str
    plain_http: bool = False
    registry_ca: str | None = None

    def to_json(self) -> JSON:
        return asdict(self)

    @staticmethod
    def from_json(value: JSON) -> Place:
        """Return what `to_json` wrote."""
        return Place(**value)


@dataclass(frozen=True, slots=True)
class Request:
    """One action for a node. `packager` is the version that wrote it; `memory` None means what the node has."""

    packager: str
    action: Action
    label: str
    inputs: Mapping[str, Blob]  # the records of the trees
    place: Place
    seconds: int
    memory: int | None = None
    confined: bool = True
    toolchain: JSON = None

    def to_json(self) -> JSON:
        inputs = {role: [blob.digest, blob.size] for role, blob in self.inputs.items()}
        named = {name: getattr(self, name) for name in ("packager", "label", "seconds", "memory", "confined")}
        place, action = self.place.to_json(), self.action.to_json()
        return {**named, "action": action, "inputs": inputs, "place": place, "toolchain": self.toolchain}

    @staticmethod
    def from_json(value: JSON) -> Request:
        """Return what `to_json` wrote; digests are checked, and inputs are those of the action."""
        action = Action(**value["action"])
        inputs = {
            role: Blob(check_digest(digest, subject="input"), int(size))
            for role, (digest, size) in value["inputs"].items()
        }
        if {role: blob.digest for role, blob in inputs.items()} != dict(action.inputs):
            raise ValueError("the inputs are not those of the action")
        more = {name: value[name] for name in ("packager", "label", "seconds", "memory", "confined", "toolchain")}
        return Request(action=action, inputs=inputs, place=Place.from_json(value["place"]), **more)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node said: the `form`, one of those above, and its members."""

    form: str
    said: Mapping[str, Any] = field(default_factory=dict)


def read_answer(value: JSON) -> Answer:
    """Return an answer that has one of the forms. Raises ValueError for anything else."""
    if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in _FORMS:
        raise ValueError("it has none of the known forms")
    ((form, said),) = value.items()
    if problem := next(json_schema.check(said, _FORMS[form], form), None):
        raise ValueError(problem)
    return Answer(form, said)


def describe_error(error: PackagerError) -> JSON:
    """Return an error of a node as an answer: what says nothing about the model is `lost` or `refused`."""
    if isinstance(error, SourceError | StorageError):  # the shared store, an index, a full disk: another node may do
        return lost(error.message, error.hint)
    if isinstance(error, MissingToolError) or not isinstance(error, StepError):
        return refused(error.message, error.hint)
    proposed = [edit.to_json() for edit in error.edits]
    needs = [error.operator, error.opset, error.wanted] if isinstance(error, TooNewError) else None
    said = {"message": error.message, "hint": error.hint, "log": error.log, "died": error.died}
    return {"error": {**said, "edits": proposed, "needs": needs}}


def lost(message: str, hint: str | None = None) -> JSON:
    return {"lost": {"message": message[:_LONGEST], "hint": hint}}


def refused(message: str, hint: str | None = None) -> JSON:
    return {"refused": {"message": message[:_LONGEST], "hint": hint}}


def error_of(said: Mapping[str, Any]) -> StepError:
    """Return the error that a node described, bounded, with such edits alone as a worker may propose."""
    match said["needs"]:
        case [str(operator), int(opset), int(wanted)]:
            return TooNewError(operator[:_LONGEST], opset, wanted)
    hint = said["hint"] and said["hint"][:_LONGEST]
    proposed = edits.from_worker(said["edits"])
    return StepError(
        said["message"][:_LONGEST], hint=hint, log=said["log"][-_LONGEST:], died=said["died"], edits=proposed
    )


def load(text: str | bytes) -> JSON:
    """Parse one message. Raises ValueError."""
    return canonical.load(text.encode() if isinstance(text, str) else text, limit=MAX_MESSAGE)

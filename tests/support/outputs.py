# SPDX-License-Identifier: Apache-2.0
"""Every document that a test reads from the command line is held against the published schema of its verb."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema

from packager.cli import _output_schemas, _verbs

_VERBS = frozenset(_verbs.list_verbs())


def check(arguments: Sequence[str | Path], text: str) -> Any:
    """Return what `packager ARGUMENTS` printed as its one document, which is what the schema says."""
    found = json.loads(text)
    verb = next(
        (str(word) for word in arguments if str(word) in _VERBS), "help"
    )  # without a verb it can but be an error
    _validator(verb).validate(found)
    return found


@functools.cache
def _validator(verb: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(_output_schemas.of_verb(verb))

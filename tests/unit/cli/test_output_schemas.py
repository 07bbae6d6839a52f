# SPDX-License-Identifier: Apache-2.0
"""The published schemas of what verbs print: one for every verb, in one style, and they refuse what is not so."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from packager.cli import _output_schemas, _verbs
from packager.errors import UsageError
from packager.store.store import Store
from tests.conftest import Run
from tests.support import bundles

WHOLE = json.loads(_output_schemas.build_schema())


def members(schema: Any) -> Iterator[str]:
    """Yield the names of members that a schema lists."""
    if isinstance(schema, dict):
        if schema.get("additionalProperties") is False:
            yield from schema["properties"]
        for part in schema.values():
            yield from members(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from members(part)


def test_every_verb_has_one_and_all_are_schemas() -> None:
    assert set(_verbs.list_verbs()) <= set(WHOLE["$defs"]["verbs"])
    for name in WHOLE["$defs"]["verbs"]:
        jsonschema.Draft202012Validator.check_schema(_output_schemas.of_verb(name))


def test_members_are_in_one_style() -> None:
    found = list(members(WHOLE["$defs"]))
    assert len(found) > 200
    assert [name for name in found if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name)] == []


@pytest.mark.parametrize("name", sorted(WHOLE["$defs"]["verbs"]))
def test_an_error_fits_every_verb(name: str) -> None:
    told = {"ok": False, "error": {"code": 2, "message": "m", "hint": None, "subject": None}}
    jsonschema.validate(told, _output_schemas.of_verb(name))


@pytest.mark.parametrize(
    "change", [{"setDigest": "x"}, {"name": 1}, {"digest": "sha256:short"}, {"checks": [{"ok": True}]}]
)
def test_what_is_not_so_is_refused(packager: Run, store: Store, change: dict[str, Any]) -> None:
    bundle = bundles.make(store)
    packager("keygen", "key", "--json")
    packager("sign", f"{bundle.name}:{bundle.version}", "--key", "key.pem", "--json")
    found = json.loads(packager("verify", f"{bundle.name}:{bundle.version}", "--key", "key.pub", "--json").stdout)
    jsonschema.validate(found, _output_schemas.of_verb("verify"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**found, **change}, _output_schemas.of_verb("verify"))


@pytest.mark.parametrize(
    "words",
    [
        ("cache", "size"),
        ("cache", "gc"),
        ("cache", "verify"),
        ("policy", "list"),
        ("policy", "explain", "licenses"),
        ("policy", "explain", "parity"),
        ("runtimes", "list"),
        ("runtimes", "show", "triton"),
        ("schema",),
        ("schema", "output"),
        ("schema", "output", "verify"),
        ("help",),
        ("help", "sign"),
        ("completion", "bash"),
        ("doctor",),
        ("keygen", "k"),
        ("verify", "nothing"),
        ("sign", "nothing:1.0.0", "--key", "k"),
        ("status", "nowhere"),
        ("vulndb", "import", "nothing"),
    ],
    ids=" ".join,
)
def test_verbs_print_what_they_publish(packager: Run, words: tuple[str, ...]) -> None:
    """The fixture holds every document against its schema."""
    assert packager(*words, "--json", code=None).stdout


def test_verbs_about_a_bundle_print_what_they_publish(packager: Run, store: Store) -> None:
    bundle = bundles.make(store)
    name = f"{bundle.name}:{bundle.version}"
    packager("keygen", "key")
    packager("sign", name, "--key", "key.pem")
    for words in (
        ("inspect", name),
        ("export", name, "out.bundle.tar"),
        ("verify", name, "--key", "key.pub"),
        ("unpack", name, "tree", "--key", "key.pub"),
        ("diff", name, name),
        ("sbom", name),
        ("sbom", name, "--report"),
        ("compat", name),
        ("doctor", name),
        ("config", name),
        ("config", name, "--explain"),
        ("config", "diff", name, name),
        ("policy", "check", name, "--profile", "dev"),
        ("import", "out.bundle.tar", "--key", "key.pub"),
    ):
        assert packager(*words, "--json", code=None).stdout, words


def test_a_schema_of_one_verb_is_asked_for_by_name(packager: Run) -> None:
    told = json.loads(packager("schema", "output", "verify").stdout)
    assert told == _output_schemas.of_verb("verify") and "verbs" not in told["$defs"]
    assert "did you mean `verify`" in packager("schema", "output", "verfy", code=2).stderr
    packager("schema", "trust", "verify", code=2)
    with pytest.raises(UsageError):
        _output_schemas.of_verb("nothing")

# SPDX-License-Identifier: Apache-2.0
"""Values for Connaisseur's chart: its own matching picks our rule for our images, and what it cannot judge is refused.

The schema says what Connaisseur 3.10 decodes its configuration into (`internal/config`, `internal/policy`,
`internal/validator`), where an unknown member is an error; `chosen` follows its `Match.Compare`.
"""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from packager.errors import UsageError
from packager.store.store import Store
from packager.trust import keys
from packager.trust.model import Trust
from tests.support.deployments import DIGEST, carrier
from tests.unit.deploy.test_admission import KEY, OTHER, TEXT, closed, made, of_keys, rows

RULE = {"pattern": TEXT, "validator": TEXT}
CONNAISSEUR = closed(
    {
        "application": closed(
            {
                "validators": rows(
                    {
                        "oneOf": [
                            closed({"name": TEXT, "type": {"const": "static"}, "approve": {"type": "boolean"}}),
                            closed(
                                {
                                    "name": TEXT,
                                    "type": {"const": "cosign"},
                                    "trustRoots": rows(closed({"name": TEXT, "key": TEXT})),
                                }
                            ),
                        ]
                    }
                ),
                "policy": rows(
                    closed(
                        RULE,
                        **{
                            "with": closed(
                                {
                                    "trustRoot": TEXT,
                                    "threshold": {"type": "integer", "minimum": 1},
                                    "verifyInTransparencyLog": {"type": "boolean"},
                                    "verifySCT": {"type": "boolean"},
                                }
                            )
                        },
                    )
                ),
            }
        )
    }
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return carrier(Store(tmp_path_factory.mktemp("store")), kleines=b"x")


def values_of(bundle, out: Path, trust: Trust, **options: str) -> dict:
    text = (made(bundle, out, trust, admission="connaisseur", **options) / "admission/connaisseur.yaml").read_text()
    found = yaml.safe_load(text)
    jsonschema.validate(found, CONNAISSEUR)
    return found


def test_connaisseur_judges_the_scope_and_lets_the_rest_in(bundle, tmp_path: Path) -> None:
    values = values_of(bundle, tmp_path / "a", of_keys(KEY, OTHER), admission_scope="r.example:5000/team")
    rest, ours = values["application"]["validators"]
    inlined = [keys.parse_public(row["key"].encode()).fingerprint for row in ours["trustRoots"]]
    assert inlined == [KEY.fingerprint, OTHER.fingerprint]
    rules = values["application"]["policy"]
    for image in ("r.example:5000/team:1", f"r.example:5000/team@{DIGEST}", "r.example:5000/team/a/b:1"):
        assert chosen(rules, image)["validator"] == ours["name"], image
    for image in ("r.example:5000/teams:1", "r.example:5000/tea@sha256:0", "index.docker.io/library/redis:7"):
        assert chosen(rules, image)["validator"] == rest["name"], image
    assert {(rule["with"]["trustRoot"], rule["with"]["threshold"]) for rule in rules[1:]} == {("*", 1)}, "any signer"
    host = values_of(bundle, tmp_path / "b", of_keys(KEY), admission_scope="r.example:5000")
    below = host["application"]["policy"]
    assert chosen(below, "r.example:5000/x:1")["validator"] == ours["name"]
    assert chosen(below, "index.docker.io/library/r.example:1")["validator"] == rest["name"]


def shared(one: str, other: str) -> int:
    """Return the length of the common prefix of two texts."""
    return next(
        (number for number, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def chosen(rules: list[dict], image: str) -> dict:
    """The rule that Connaisseur follows: anything may stand around a pattern; most parts, then prefixes, then lengths."""

    def matches(pattern: str) -> bool:
        wide = "*" * (not pattern.startswith("*")) + pattern + "*" * (not pattern.endswith("*"))
        return re.fullmatch(".*".join(map(re.escape, wide.split("*"))), image) is not None

    def rank(rule: dict) -> tuple:
        parts, names = rule["pattern"].split("/"), image.split("/")
        prefixes = [shared(*pair) for pair in zip(parts, names, strict=False)]
        return len(parts), prefixes, [len(part) for part in parts]

    return max((rule for rule in rules if matches(rule["pattern"])), key=rank)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"admission_scope": "all"}, "Connaisseur's own images"),
        ({"variant": "image-volume", "model_image": f"r.example/m@{DIGEST}"}, "judges no image volume"),
    ],
)
def test_connaisseur_says_what_it_does_not_judge(options: dict, message: str, bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        made(bundle, tmp_path / "out", of_keys(KEY), admission="connaisseur", **options)
    assert caught.value.hint

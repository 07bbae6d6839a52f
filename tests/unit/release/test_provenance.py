# SPDX-License-Identifier: Apache-2.0
"""Provenance as a record: what is accepted, who claims to build, and that drafts survive what stores go through."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from packager import canonical
from packager.errors import UsageError
from packager.formats import intoto, slsa
from packager.release import builder as builders
from packager.release.sign import read_drafts, sign
from packager.store import collector
from packager.store.store import Store
from packager.transport.copy import update_referrers
from packager.trust import keys
from packager.trust.verify import verify
from tests.support import bundles

RUN = slsa.Run("https://ci.example/w", "1.0", "urn:uuid:1", "2027-01-01T00:00:00Z", "2027-01-01T00:01:00Z")


def whole() -> dict[str, Any]:
    facts = intoto.embed_resource(slsa.FACTS, canonical.dump({"name": "digits"}))
    return slsa.write_predicate(
        {"name": "digits"}, {"format": 2}, {"card.md": "sha256:" + "0" * 64}, [], RUN.to_json([facts])
    )


def test_what_is_written_is_read() -> None:
    read = slsa.parse(whole())
    assert (read.recipe, read.lock) == ({"name": "digits"}, {"format": 2})
    assert (read.builder, read.finished, read.facts) == (RUN.builder, RUN.finished, {"name": "digits"})


SPOILT: dict[str, Callable[[dict[str, Any]], object]] = {
    "an unknown parameter": lambda p: p["buildDefinition"]["externalParameters"].update(flags=1),
    "a parameter missing": lambda p: p["buildDefinition"]["externalParameters"].pop("lock"),
    "another build type": lambda p: p["buildDefinition"].update(buildType="https://other.example/build"),
    "an unknown field": lambda p: p.update(more=1),
    "facts twice": lambda p: p["runDetails"]["byproducts"].append(p["runDetails"]["byproducts"][0]),
    "facts that are no JSON": lambda p: p["runDetails"]["byproducts"][0].update(content="e30="[:2]),
    "a recipe that is text": lambda p: p["buildDefinition"]["externalParameters"].update(recipe="x"),
    "a builder without an id": lambda p: p["runDetails"]["builder"].pop("id"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_anything_else_is_refused(what: str) -> None:
    spoilt = copy.deepcopy(whole())
    SPOILT[what](spoilt)
    with pytest.raises(ValueError, match=r"."):
        slsa.parse(spoilt)


GITHUB = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "acme/models",
    "GITHUB_WORKFLOW_REF": "acme/models/.github/workflows/release.yml@refs/heads/main",
    "GITHUB_RUN_ID": "7",
}
GITLAB = {
    "GITLAB_CI": "true",
    "CI_CONFIG_REF_URI": "gitlab.com/acme/models//.gitlab-ci.yml@refs/heads/main",
    "CI_JOB_URL": "https://gitlab.com/acme/models/-/jobs/7",
}


def test_the_builder_is_who_the_ci_system_says() -> None:
    builder, run = builders.identify(None, GITHUB)
    assert builder == "https://github.com/acme/models/.github/workflows/release.yml@refs/heads/main"
    assert run == "https://github.com/acme/models/actions/runs/7/attempts/1"
    builder, run = builders.identify(None, GITLAB)
    assert builder == "https://gitlab.com/acme/models//.gitlab-ci.yml@refs/heads/main"
    assert run == GITLAB["CI_JOB_URL"]
    assert builders.identify(None, {}) == (builders.LOCAL, None)
    assert builders.identify("https://a.example", {**GITHUB, "PACKAGER_BUILDER": "urn:b"})[0] == "https://a.example"
    with pytest.raises(UsageError, match="not a URI"):
        builders.identify("my laptop", {})


def test_drafts_are_signed_stay_in_the_store_and_survive_its_collector(store: Store) -> None:
    bundles.make(store)
    store.draft("tiny", "1.0.0", {slsa.PREDICATE: store.put(canonical.dump(whole())).digest})
    store.release()
    collector.collect_store(store)
    from packager.bundle.bundle import open_bundle

    bundle = open_bundle("tiny:1.0.0", lambda: store)
    assert read_drafts(bundle) == {slsa.PREDICATE: whole()}
    assert not bundle.referrers, "a draft does not travel"
    key = keys.generate_key("p256")
    signed = sign(bundle, key)
    update_referrers(signed)
    kinds = [item.statement.predicate_type for item in verify(signed, [key.public]).evidence]
    assert slsa.PREDICATE in kinds
    assert store.entry("tiny", "1.0.0").drafts, "signing again states the same"
    assert json.loads((store.root / "bundles/tiny/1.0.0").read_bytes())["referrers"]

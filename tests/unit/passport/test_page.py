# SPDX-License-Identifier: Apache-2.0
"""A passport is one page: the same facts give the same bytes, foreign text stays text, nothing is asked of a network."""

from __future__ import annotations

import html.parser
import json
import re
from pathlib import Path
from typing import Any

import pytest

from packager.errors import UsageError
from packager.passport.contents import Judgement, describe_bundle
from packager.passport.page import write_page
from packager.passport.player import MODULE, WASM, list_parts
from packager.store.store import Store
from packager.trust.keys import generate_key
from packager.trust.model import as_trust
from packager.trust.verify import verify
from tests.support import bundles, deployments

HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>\x1b[31m\u202e"


class Elements(html.parser.HTMLParser):
    """Every element with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture
def facts(store: Store) -> Any:
    return describe_bundle(deployments.carrier(store), Judgement())


def test_equal_facts_give_equal_bytes(facts: Any) -> None:
    assert write_page(facts) == write_page(json.loads(json.dumps(facts)))


def test_nothing_is_requested_and_only_our_script_may_run(facts: Any) -> None:
    page = write_page(facts)
    elements = Elements(page).found
    for tag, attributes in elements:
        assert not {"src", "srcset", "action", "style"} & set(attributes), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert (attributes.get("href") or "#").startswith("#"), (tag, attributes)
    policy = next(a["content"] for _, a in elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]+'(;|$)", policy), policy


def test_foreign_text_stays_text(facts: Any) -> None:
    honest = Elements(write_page(facts)).found

    def poisoned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: poisoned(member) for key, member in value.items()}
        if isinstance(value, list):
            return [poisoned(member) for member in value]
        return value + HOSTILE if isinstance(value, str) else value

    closed = {"outcome", "level", "levels"}  # words of ours
    hostile = poisoned(facts)
    for row, original in zip(hostile["compatibility"], facts["compatibility"], strict=True):
        row.update({key: original[key] for key in closed & set(row)})
    page = write_page(hostile)
    assert [tag for tag, _ in Elements(page).found] == [tag for tag, _ in honest]
    assert "\x1b" not in page and "\u202e" not in page


def test_a_bundle_that_nothing_was_said_of_is_said_so(facts: Any) -> None:
    page = write_page(facts)
    assert "not checked" in page
    assert facts["verification"] == {"checked": False, "claimed": []}
    for said in ("No policy was applied", "No earlier version", "no advisory database", "No conformance run"):
        assert said in page, said


def test_a_bundle_that_does_not_hold_says_why(store: Store) -> None:
    bundle = bundles.make(store)
    key = generate_key("p256").public
    verification = verify(bundle, as_trust([key]))
    page = write_page(describe_bundle(bundle, Judgement(verification, keys=[key])))
    assert "✗ no" in page and verification.failure is not None
    assert verification.failure.message.split("`")[0] in page


def test_what_changed_since_the_release_before_is_listed(store: Store) -> None:
    old, new = (bundles.make(store, {"NOTES.md": text}, version=v) for text, v in ((b"a", "1.0.0"), (b"b", "1.0.1")))
    facts = describe_bundle(new, Judgement(), previous=old)
    assert (facts["difference"]["from"], facts["difference"]["to"]) == ("1.0.0", "1.0.1")
    assert "From 1.0.0 to 1.0.1" in write_page(facts)


def test_a_player_needs_the_files_of_onnxruntime_web(store: Store, tmp_path: Path) -> None:
    bundle = bundles.make(store)
    with pytest.raises(UsageError):
        list_parts(bundle, tmp_path)  # no reference inputs
    assert {MODULE, WASM} == {"ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"}

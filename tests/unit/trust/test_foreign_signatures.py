# SPDX-License-Identifier: Apache-2.0
"""Signatures as other programs write them: cosign leaves out empty members, OpenSSF Model Signing 0.x wrote the key."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from packager.formats import dsse, intoto
from packager.trust import keys
from packager.trust.model import KeySigner, Trust
from packager.trust.verifiers import key as verifier

KEY = keys.generate_key("p384")
PAYLOAD = intoto.Statement(intoto.MODEL_SIGNING_PREDICATE, "m", "0" * 64, {}).to_bytes()


def without_log(document: Any) -> None:
    del document["verificationMaterial"]["tlogEntries"]


def without_key_id(document: Any) -> None:
    del document["dsseEnvelope"]["signatures"][0]["keyid"]


def null_key_id(document: Any) -> None:
    document["dsseEnvelope"]["signatures"][0]["keyid"] = None


def key_itself(document: Any) -> None:
    raw = base64.b64encode(KEY.public.pem).decode()
    document["verificationMaterial"] = {"publicKey": {"rawBytes": raw, "keyDetails": "PKIX_ECDSA_P384_SHA_384"}}


def document(*changes: Callable[[Any], None]) -> bytes:
    value = json.loads(KEY.sign(PAYLOAD).to_bytes())
    for change in changes:
        change(value)
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    "changes",
    [(without_log,), (without_log, without_key_id), (key_itself, null_key_id)],
    ids=["no-log", "no-log-no-key-id", "key-itself"],
)
def test_other_spellings_hold_by_the_same_key(changes: tuple[Callable[[Any], None], ...]) -> None:
    signed = dsse.parse(document(*changes))
    trust = Trust((KeySigner("release", KEY.public),))
    assert verifier.verify(signed, trust, None).payload == PAYLOAD


def test_embedded_key_is_not_trusted() -> None:
    from packager.errors import UntrustedSignerError

    signed = dsse.parse(document(key_itself))
    with pytest.raises(UntrustedSignerError):
        verifier.verify(signed, Trust((KeySigner("other", keys.generate_key("p384").public),)), None)


@pytest.mark.parametrize("entries", [[{}], {}, "", None, 7])
def test_log_entries_are_none_or_no_list_at_all(entries: object) -> None:
    def changed(value: Any) -> None:
        value["verificationMaterial"]["tlogEntries"] = entries

    with pytest.raises(ValueError, match="log entries"):
        dsse.parse(document(changed))

# SPDX-License-Identifier: Apache-2.0
"""Sign with an ECDSA key that never leaves its token: `key+pkcs11:token=NAME;object=LABEL?module-path=FILE`.

The location is the path and query of an RFC 7512 URI: `token`, `serial` and `slot-id` choose the token, `object` and
`id` the key, `module-path` the driver. The PIN is the passphrase, never part of the URI: arguments are public.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from cryptography.hazmat.primitives import serialization

from packager.errors import MissingToolError, SourceError, UsageError
from packager.formats.dsse import Key, SignedStatement, encode_payload
from packager.trust import keys
from packager.trust.keys import PublicKey
from packager.trust.signers import Secret, Signer

_TOKEN, _OBJECT = {"token", "serial", "slot-id"}, {"object", "id"}
_EXAMPLE = "write for example `key+pkcs11:token=release;object=signing?module-path=/usr/lib/softhsm/libsofthsm2.so`"


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A private key in a token; signatures are made there."""

    location: dict[str, str]
    secret: Secret
    seen: list[PublicKey] = field(default_factory=list, compare=False)  # the public half, once it was read

    def sign(self, payload: bytes) -> SignedStatement:
        """Sign an in-toto payload, in a separate session."""
        signature, public = self._signed(encode_payload(payload))
        return SignedStatement(payload, signature, Key(public.fingerprint))

    def repeats(self, old: SignedStatement, new: SignedStatement) -> bool:
        """Return whether `old` is a signature by this key: its signatures are never equal."""
        return any(public.made(new) and public.made(old) for public in self.seen)

    def sign_bytes(self, message: bytes) -> bytes:
        """Return the DER signature of `message`, made in a separate session."""
        return self._signed(message)[0]

    def _signed(self, message: bytes) -> tuple[bytes, PublicKey]:
        library = _library()
        try:
            with _session(library, self.location, self.secret()) as session:
                public = _public(library, session, self.location)
                private = _one(library, session, library.ObjectClass.PRIVATE_KEY, self.location)
                raw = private.sign(keys.digest_message(public, message), mechanism=library.Mechanism.ECDSA)
        except library.PKCS11Error as error:
            raise SourceError(
                f"the token refused: {type(error).__name__} {error}".rstrip(),
                hint="check the PIN, the token and the key's rights",
            ) from error
        signature = importlib.import_module("pkcs11.util.ec").encode_ecdsa_signature(raw)
        if not public.signed(signature, message):
            raise SourceError("the token made a signature that its own public key does not accept")
        self.seen[:] = [public]
        return signature, public


def open_signer(location: str, secret: Secret) -> Signer:
    """Read the location; the token is opened only to sign."""
    path, _, query = location.partition("?")
    parts = dict(part.partition("=")[::2] for part in (*path.split(";"), *query.split("&")) if part)
    if "pin-value" in parts or "pin-source" in parts:
        raise UsageError("a PIN does not belong into the URI", hint="use --passphrase-file, or PACKAGER_PASSPHRASE")
    if unknown := sorted(set(parts) - _TOKEN - _OBJECT - {"module-path", "type"}):
        raise UsageError(f"`{unknown[0]}` is not known in a PKCS#11 URI", hint=_EXAMPLE)
    if "module-path" not in parts or not set(parts) & _TOKEN or not set(parts) & _OBJECT:
        raise UsageError("a PKCS#11 URI needs a token, an object or id, and a module path", hint=_EXAMPLE)
    return TokenKey(parts, secret)


def _library() -> Any:
    try:
        return importlib.import_module("pkcs11")
    except ImportError as error:
        raise MissingToolError("python-pkcs11", "pkcs11") from error


def _session(library: Any, location: dict[str, str], pin: bytes | None) -> Any:
    """Open a session on the one token that the location names."""
    if pin is None:
        raise UsageError("the token needs a PIN", hint="use --passphrase-file, or PACKAGER_PASSPHRASE")
    path = unquote(location["module-path"])
    try:
        tokens = [token for slot in library.lib(path).get_slots(token_present=True) if (token := slot.get_token())]
    except (RuntimeError, OSError) as error:
        raise UsageError(f"cannot load PKCS#11 module `{path}`: {error}", hint=_EXAMPLE) from error
    found = [token for token in tokens if _is(token, location)]
    if len(found) != 1:
        listing = ", ".join(f"`{token.label.strip()}`" for token in tokens) or "none"
        raise UsageError(f"expected one token as the URI names it, got {len(found)}", hint=f"tokens here: {listing}")
    return found[0].open(user_pin=pin.decode())


def _is(token: Any, location: dict[str, str]) -> bool:
    return (
        unquote(location.get("token", token.label)) == token.label
        and unquote_to_bytes(location.get("serial", "")) in (b"", token.serial.strip())
        and int(location.get("slot-id", token.slot.slot_id)) == token.slot.slot_id
    )


def _one(library: Any, session: Any, kind: Any, location: dict[str, str]) -> Any:
    wanted = {library.Attribute.CLASS: kind, library.Attribute.KEY_TYPE: library.KeyType.EC}
    if "object" in location:
        wanted[library.Attribute.LABEL] = unquote(location["object"])
    if "id" in location:
        wanted[library.Attribute.ID] = unquote_to_bytes(location["id"])
    found = list(session.get_objects(wanted))
    if len(found) != 1:
        raise UsageError(f"expected one EC key pair as the URI names it, got {len(found)}", hint=_EXAMPLE)
    return found[0]


def _public(library: Any, session: Any, location: dict[str, str]) -> PublicKey:
    stored = _one(library, session, library.ObjectClass.PUBLIC_KEY, location)
    der = importlib.import_module("pkcs11.util.ec").encode_ec_public_key(stored)
    try:
        return keys.public_key(serialization.load_der_public_key(der))
    except ValueError as error:
        raise UsageError(f"the key in the token {error}", hint="expected ECDSA P-256 or P-384") from error

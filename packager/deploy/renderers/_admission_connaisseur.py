# SPDX-License-Identifier: Apache-2.0
"""Values for the Helm chart of Connaisseur 3: a validator with the keys, and the rules of the images it judges.

Connaisseur reads cosign's first form (`sign --also cosign-legacy`) with SHA-256 and looks at containers, init
containers and ephemeral containers. It runs the digest that the signature names. The most specific rule counts, the one
with the most parts between slashes; every pattern may have anything before and after it.
Source: Connaisseur 3.10 (0c40cab), `internal/config`, `internal/policy`, `internal/validator`.
"""

from __future__ import annotations

from packager.canonical import JSON
from packager.deploy.renderers._admission_request import EVERYTHING, Request, is_p384, refuse
from packager.deploy.renderers._deployment import yaml_text
from packager.errors import UsageError
from packager.trust.model import KeySigner, Signer

_KIND = "connaisseur"
_REST = "allow"


def write_connaisseur(request: Request) -> dict[str, bytes]:
    """Return the chart's values by path. Raises UsageError for what Connaisseur cannot judge."""
    if request.variant == "image-volume":
        hint = "use --admission kyverno, or another --variant"
        raise UsageError(f"--admission {_KIND} judges no image volume: --variant image-volume needs another", hint=hint)
    if EVERYTHING in request.scopes:
        hint = "give --admission-scope HOST or HOST/PATH"
        raise UsageError(f"--admission {_KIND}: `all` would refuse Connaisseur's own images", hint=hint)
    name = f"{request.name}-signed"
    roots = [{"name": f"signer{number}", "key": _pem(signer)} for number, signer in enumerate(request.signers)]
    validators = [
        {"name": _REST, "type": "static", "approve": True},
        {"name": name, "type": "cosign", "trustRoots": roots},
    ]
    counted = {"trustRoot": "*", "threshold": 1, "verifyInTransparencyLog": False, "verifySCT": False}
    rules: list[JSON] = [{"pattern": "*:*", "validator": _REST}]
    for scope in request.scopes:
        rules += [{"pattern": pattern, "validator": name, "with": {**counted}} for pattern in _patterns(scope)]
    return {"admission/connaisseur.yaml": yaml_text({"application": {"validators": validators, "policy": rules}})}


def _pem(signer: Signer) -> str:
    if not isinstance(signer, KeySigner):
        hint = "sign with a key as well, or use --admission kyverno or policy-controller"
        raise refuse(_KIND, signer, "has a certificate, and cosign's first form is of keys here", hint)
    if is_p384(signer.key):
        raise refuse(_KIND, signer, "has a P-384 key, which is read with SHA-256", "use a P-256 key")
    return signer.key.pem.decode()


def _patterns(scope: str) -> list[str]:
    """Return patterns of a repository or of all below a prefix. A host alone is not a repository."""
    inside = [f"{scope}/*"]
    return [f"{scope}:*", f"{scope}@*", *inside] if "/" in scope else inside

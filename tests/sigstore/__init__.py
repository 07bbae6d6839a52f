# SPDX-License-Identifier: Apache-2.0
"""A Sigstore instance on 127.0.0.1, whole enough for unmodified clients: identities, Fulcio, CT log, Rekor v2, TSA.

What clients check is real: the identity token and the proof of possession are verified before a certificate is
issued, the certificate carries a signed timestamp of a CT log, the log is a Merkle tree with signed checkpoints, and
OpenSSL makes the RFC 3161 time stamps. What only operators need (several shards, witnesses, persistence) is absent.

    with Sigstore(folder) as instance:      # folder/trust_config.json, trusted_root.json, signing_config.json
        token = instance.token("ci@local.test")

`python -m tests.sigstore FOLDER [PORT]` runs one by hand.
"""

from tests.sigstore.server import Sigstore as Sigstore

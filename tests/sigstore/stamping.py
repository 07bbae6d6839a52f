# SPDX-License-Identifier: Apache-2.0
"""A time stamping authority: OpenSSL answers RFC 3161 queries with a certificate of ours."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.pki import Holder

_CONFIG = """[tsa]
default_tsa=one
[one]
serial={folder}/serial
crypto_device=builtin
signer_cert={folder}/tsa.pem
signer_key={folder}/tsa.key
signer_digest=sha256
default_policy=1.3.6.1.4.1.57264.2
digests=sha256,sha384,sha512
accuracy=secs:1
ordering=no
tsa_name=no
ess_cert_id_alg=sha256
"""


class StampingAuthority:
    """Signs times with `holder`'s key."""

    def __init__(self, holder: Holder, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        holder.save(folder, "tsa")
        (folder / "serial").write_text("01\n")
        (folder / "tsa.cnf").write_text(_CONFIG.format(folder=folder))

    def answer(self, query: bytes) -> bytes:
        """Return the response to a query; both are DER."""
        work = Path(tempfile.mkdtemp(dir=self._folder))
        (work / "query").write_bytes(query)
        command = ["openssl", "ts", "-reply", "-config", str(self._folder / "tsa.cnf"), "-queryfile", str(work / "query"),
                   "-out", str(work / "reply")]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)
        reply = (work / "reply").read_bytes()
        shutil.rmtree(work)
        return reply

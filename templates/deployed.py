# SPDX-License-Identifier: Apache-2.0
"""What was deployed here: `deployment.json` names the bundle, its knobs, and every file with its digest.

`files` are those of the bundle, `program`, where it is there, those that open them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

RECORD = "deployment.json"
CHUNK = 1 << 20


def read(folder: Path) -> dict[str, Any]:
    """Return the record in `folder`, after every file it names was compared with its digest. Raises ValueError."""
    record: dict[str, Any] = json.loads((folder / RECORD).read_bytes())
    for name, digest in {**record["files"], **record.get("program", {})}.items():
        state = hashlib.sha256()
        with (folder / name).open("rb") as file:
            while chunk := file.read(CHUNK):
                state.update(chunk)
        if f"sha256:{state.hexdigest()}" != digest:
            raise ValueError(f"{name} is not the file of the bundle: expected {digest}")
    return record

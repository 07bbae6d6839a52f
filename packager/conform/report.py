# SPDX-License-Identifier: Apache-2.0
"""Write a conformance result as files that people and machines read: JSON, JUnit XML, one HTML page."""

from __future__ import annotations

from pathlib import Path

from packager import escape
from packager.canonical import JSON
from packager.conform import html, junit
from packager.files import storage_errors, write_atomically


def write(result: JSON, folder: Path, attestation: bytes | None) -> None:
    """Write `result.json`, `junit.xml`, `report.html` and, if there is one, `attestation.sigstore.json`."""
    files = {
        "result.json": escape.json_text(result, indent=1).encode(),
        "junit.xml": junit.render(result).encode(),
        "report.html": html.render(result).encode(),
    }
    if attestation is not None:
        files["attestation.sigstore.json"] = attestation
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_atomically(folder / name, data)

# SPDX-License-Identifier: Apache-2.0
"""The page at `/`: static, the same for every bundle; it asks the server that it came from and nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

BODY = Path(__file__).with_name("page.html").read_bytes()


def _hashes(tag: str) -> str:
    """Return the hashes of the inline parts of the page, as Content Security Policy (level 3) names them."""
    parts = re.findall(rf"<{tag}>(.*?)</{tag}>".encode(), BODY, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(part).digest()).decode()}'" for part in parts)


_POLICY = (
    f"default-src 'none'; script-src {_hashes('script')}; style-src {_hashes('style')}; connect-src 'self'; "
    "img-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FIELDS = [
    ("content-type", "text/html; charset=utf-8"),
    ("content-security-policy", _POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-cache"),
]

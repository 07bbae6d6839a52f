# SPDX-License-Identifier: Apache-2.0
"""MkDocs hook: links to files of the repository outside of `docs/` become plain text, or links to `repo_url`."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"\[([^\]]+)\]\((?!\w+:)([^)#\s]+)(#[^)\s]*)?\)")
LOG = logging.getLogger("mkdocs.hooks.links")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    folder = (DOCS / page.file.src_uri).parent

    def replaced(found: re.Match[str]) -> str:
        target = Path(os.path.normpath(folder / found[2]))
        if target.is_file() and target.is_relative_to(DOCS):
            return found[0]
        if not target.exists():
            LOG.warning("%s: `%s` does not exist", page.file.src_uri, found[2])
        base = (config.repo_url or "").rstrip("/")
        return f"[{found[1]}]({base}/blob/main/{target.relative_to(ROOT).as_posix()})" if base else found[1]

    return LINK.sub(replaced, markdown)

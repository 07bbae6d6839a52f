# SPDX-License-Identifier: Apache-2.0
"""Take the pictures of a passport for the documentation: light, dark, and as wide as a phone.

    python docs/site/pictures.py digits-1.1.0.html docs/how-to/images

Needs Chromium and the package `playwright`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

VIEWS = (("light", "light", 1000, 760), ("dark", "dark", 1000, 760), ("phone", "light", 390, 760))


def take_pictures(page: Path, folder: Path) -> None:
    """Write `passport-NAME.png` into `folder` for each view of a passport's file."""
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, scheme, width, height in VIEWS:
            shown = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
            shown.goto(page.absolute().as_uri())
            shown.wait_for_selector("#signature-result .badge")
            shown.screenshot(path=folder / f"passport-{name}.png")
        browser.close()


if __name__ == "__main__":
    take_pictures(Path(sys.argv[1]), Path(sys.argv[2]))

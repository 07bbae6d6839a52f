# SPDX-License-Identifier: Apache-2.0
"""The page at `/` in a real browser: a person tries a sentence and an image, and nothing is requested from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.raw_models import Made
from tests.support.tools import tool
from tests.unit.pipelines.test_images import jpeg
from tests.unit.pipelines.test_served import serving


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    program = tool("chromium")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


def opened(browser: Any, address: str) -> tuple[Any, list[str], list[str]]:
    """Return the page, the addresses that it requests, and what its console says."""
    page, asked, said = browser.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(address)
    return page, asked, said


def test_a_person_tries_a_sentence(browser: Any, classifier: Made, tmp_path: Path) -> None:
    classifier.step(tmp_path, {"task": "text-classification"}, strings=20)
    with serving(classifier, tmp_path) as client:
        page, asked, said = opened(browser, f"{client.address}/")
        page.get_by_label("One text per line").fill("a small cat\n<img src=x onerror=alert(1)>")
        page.get_by_role("button", name="Answer").click()
        page.locator("#answer", has_text="good").wait_for()
        lines = page.inner_text("#answer").split("\n")
        expected = client.predict(["a small cat"])[0]
        assert lines[0] == f"{expected[0]['score']:.4f}  {expected[0]['label']}"
        assert page.inner_text("h1") == "model 1.0.0"
        assert all(url.startswith(client.address) for url in asked) and not said
        page.get_by_label("One text per line").fill("a" * 300_000)
        page.get_by_role("button", name="Answer").click()
        page.locator("#error", has_text="262144").wait_for()


def test_a_person_chooses_an_image(browser: Any, pictures_model: Made, tmp_path: Path) -> None:
    pictures_model.step(tmp_path, {"task": "image-classification"})
    with serving(pictures_model, tmp_path) as client:
        page, asked, said = opened(browser, f"{client.address}/")
        page.set_input_files("#file", [{"name": "a.jpg", "mimeType": "image/jpeg", "buffer": jpeg()}])
        page.get_by_role("button", name="Answer").click()
        page.locator("#answer", has_text="owl").wait_for()
        assert page.evaluate("document.getElementById('picture').naturalWidth") == 70
        assert all(url.startswith((client.address, "blob:")) for url in asked) and not said

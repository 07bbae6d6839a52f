# SPDX-License-Identifier: Apache-2.0
"""The passport in a real browser: no request, no error, its own checks right, and accessible by the rules of axe.

`onnxruntime-web` and `axe-core` come from npm, as a reader would get them; Chromium is the system's.
"""

from __future__ import annotations

import base64
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from packager.trust.keys import generate_key, save
from tests.e2e.conftest import Project
from tests.support.breadth import examples
from tests.support.tools import missing, tool

MUTATIONS = examples(200)
CHECK = """async ([data, at, value]) => {
  const bytes = passport.fromBase64(data);
  if (at >= 0) bytes[at] ^= value; else if (at === -2) return await tryFile(bytes.subarray(0, value));
  return await tryFile(bytes);
  async function tryFile(content) {
    try { return await passport.checkFile(new File([content], "x.bundle.tar")); }
    catch (error) { return { same: false, detail: error.message }; }
  }
}"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """onnxruntime-web and axe-core, installed by npm without running their scripts."""
    folder = tmp_path_factory.mktemp("npm")
    command = [tool("npm"), "install", "--ignore-scripts", "--no-audit", "--no-fund", "--silent", "--prefix", folder]
    subprocess.run([*command, "onnxruntime-web@1", "axe-core@4"], check=True, capture_output=True)
    return folder / "node_modules"


@pytest.fixture(scope="module")
def passport(built: Project, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = tmp_path_factory.mktemp("passport") / "cnn.html"
    trust = ("--key", "release.pub", "--policy", "release")
    built.run("report", "cnn.bundle.tar", *trust, "--player", packages / "onnxruntime-web", "-o", page)
    return page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium")
    if program is None:
        missing("chromium")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, passport: Path) -> Iterator[Any]:
    """The passport, opened from its file without a network; afterwards nothing may have been requested or logged."""
    context = browser.new_context(offline=True)
    opened, requests, said = context.new_page(), [], []
    opened.on("request", lambda request: requests.append(request.url))
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.goto(passport.as_uri())
    opened.wait_for_selector("#signature-result .badge")
    yield opened
    assert [url for url in requests if not url.startswith("blob:")] == [passport.as_uri()]
    assert not said, said
    context.close()


def test_it_checks_its_signatures_by_itself(page: Any) -> None:
    assert page.inner_text("#signature-result").startswith("✓ holds")
    rows = page.locator("#signature-rows li").all_inner_texts()
    assert len(rows) >= 4 and all(row.startswith("✓ holds") for row in rows), rows


def test_another_key_than_the_publishers_does_not_hold(page: Any, tmp_path: Path) -> None:
    save(generate_key("p384"), tmp_path / "other.pem", tmp_path / "other.pub", None)
    page.fill("#own-key", (tmp_path / "other.pub").read_text())
    page.click("#check-signatures")
    page.wait_for_selector("#signature-result .badge.no")


def test_a_changed_statement_does_not_hold(page: Any) -> None:
    changed = """async () => {
      const item = passport.facts.evidence.statements[0];
      const bytes = passport.fromBase64(item.data);
      bytes[bytes.length >> 1] ^= 1;
      const whole = [...bytes].map((code) => String.fromCharCode(code)).join("");
      const before = item.data;
      item.data = btoa(whole);
      const { rows } = await passport.checkPage(passport.pems());
      item.data = before;
      return rows.filter((row) => row.outcome === "no").length;
    }"""
    assert page.evaluate(changed) == 1


def test_the_bundle_itself_is_recognised_and_no_mutation_of_it_is(page: Any, built: Project) -> None:
    """Bits anywhere, half of them in headers, the index and statements, where a page could be careless; and cuts."""
    data = (built.folder / "cnn.bundle.tar").read_bytes()
    text = base64.b64encode(data).decode()
    assert page.evaluate(CHECK, [text, -1, 0])["same"] is True
    draw = random.Random(7)
    cases = [(draw.randrange(len(data)), 1 << draw.randrange(8)) for _ in range(MUTATIONS // 2)]
    cases += [(draw.randrange(8192), 1 << draw.randrange(8)) for _ in range(MUTATIONS // 2 - 10)]
    cases += [(-2, draw.randrange(len(data))) for _ in range(10)]
    for at, value in cases:
        found = page.evaluate(CHECK, [text, at, value])
        assert found["same"] is False, (at, value)


def test_it_runs_its_model_on_the_reference_inputs(page: Any) -> None:
    page.click("#run-model")
    page.wait_for_selector("#run-result .badge", timeout=120_000)
    assert "within the contract" in page.inner_text("#run-result")


def test_a_model_that_was_exchanged_in_the_page_does_not_run(page: Any) -> None:
    exchanged = """async () => {
      passport.facts.player.model = btoa(atob(passport.facts.player.model).slice(0, -1) + "x");
      try { await passport.runModel(); return "ran"; } catch (error) { return error.message; }
    }"""
    assert "is no file of the bundle" in page.evaluate(exchanged)


def test_components_are_found_by_name(page: Any) -> None:
    page.fill("#components-search", "onnxruntime")
    shown = page.locator("#components tbody tr:visible").all_inner_texts()
    assert shown and all("onnxruntime" in row.lower() for row in shown)
    assert page.inner_text("#components-count") == f"{len(shown)} shown"


@pytest.mark.parametrize(
    ("scheme", "width"),
    [
        ("light", 1100),
        ("dark", 390),
        pytest.param("light", 390, marks=pytest.mark.slow),
        pytest.param("dark", 1100, marks=pytest.mark.slow),
    ],
)
def test_it_is_accessible(page: Any, packages: Path, scheme: str, width: int) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate((packages / "axe-core" / "axe.min.js").read_text())
    found = page.evaluate("axe.run()")["violations"]
    assert not found, [(item["id"], [node["html"] for node in item["nodes"]]) for item in found]
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_it_is_small_beside_what_it_embeds(built: Project, tmp_path: Path) -> None:
    built.run("report", "cnn.bundle.tar", "--key", "release.pub", "-o", tmp_path / "cnn.html")
    assert (tmp_path / "cnn.html").stat().st_size < 2 << 20


def test_a_bundle_of_another_signer_is_refused_in_its_page(built: Project, tmp_path: Path) -> None:
    save(generate_key("p256"), tmp_path / "other.pem", tmp_path / "other.pub", None)
    page = tmp_path / "cnn.html"
    done = built.run("report", "cnn.bundle.tar", "--key", tmp_path / "other.pub", "-o", page, code=1)
    assert "error:" in done.stderr and "✗ no" in page.read_text()
    described = built.run("report", "cnn.bundle.tar", "--json", code=0)
    assert described["bundle"]["name"] == "cnn" and described["verification"]["checked"] is False

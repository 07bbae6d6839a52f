# SPDX-License-Identifier: Apache-2.0
"""The documentation: links and anchors lead somewhere, generated pages are current, indexes name every page once."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from packager.cli import _parser, _verbs
from packager.errors import PackagerError
from tests.test_layers import ROOMS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
CODE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!\w+:)([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
GENERATED = {"api.md", "cli.md", "policies.md", "recipe.md", "exit-codes.md", "models.md", "sources-and-targets.md"}


def pages() -> list[Path]:
    """Return the Markdown files of the repository: those of `docs/`, of the top level, and the READMEs of rooms."""
    kept = [ROOT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md")]
    return [*kept, *sorted(DOCS.rglob("*.md")), *sorted((ROOT / "conformance").rglob("*.md"))]


def prose(page: Path) -> str:
    return CODE.sub("", page.read_text("utf-8"))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page, as forges make them of headings; MkDocs makes the same of those that are linked."""
    plain = (re.sub(r"[`*]|\]\([^)]*\)|\[", "", title).strip().lower() for title in HEADING.findall(prose(page)))
    return {re.sub(r" ", "-", re.sub(r"[^\w\- ]", "", title)) for title in plain}


PAGES = pages()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_anchors_exist(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_pages_that_the_code_names_exist() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.json", "*.toml", "Makefile"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    of_others = {"packager/formats/modelpack.py"}  # it names the pages of the specification
    files = listed.stdout.split() or [str(path.relative_to(ROOT)) for path in (ROOT / "packager").rglob("*.py")]
    for file in {*files} - of_others:
        if (
            file.startswith(("tests/data", "tests/matrix/results", "conformance/vectors"))
            or not (ROOT / file).is_file()
        ):
            continue
        for page, anchor in re.findall(
            r"(?<![\w/.-])(docs/[\w/-]+\.md)(?:#([\w-]+))?", (ROOT / file).read_text("utf-8")
        ):
            found = [ROOT / page, *ROOT.glob(f"{Path(file).parts[0]}/**/{page}")]
            assert any(path.exists() for path in found), (file, page)
            assert not anchor or any(anchor in anchors(path) for path in found if path.exists()), (file, page, anchor)


def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference_pages", DOCS / "site" / "reference.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "page",
    [
        "reference/api.md",
        "reference/cli.md",
        "reference/exit-codes.md",
        "reference/recipe.md",
        "reference/knobs.md",
        "reference/policies.md",
        "how-to/add-a-runtime.md",
    ],
)
def test_reference_pages_are_current(page: str) -> None:
    assert (DOCS / page).read_text("utf-8") == reference().expected(page), "run `make reference`"


def linked(page: Path) -> list[Path]:
    """Return the Markdown files that a page links."""
    found = [link.partition("#")[0] for link in LINK.findall(prose(page))]
    return [(page.parent / path).resolve() for path in found if path.endswith(".md")]


def test_every_decision_is_listed_once() -> None:
    listed = sorted(path for path in linked(DOCS / "adr" / "README.md") if path.parent == DOCS / "adr")
    assert listed == sorted((DOCS / "adr").glob("[0-9]*.md"))


def test_the_index_and_the_navigation_list_every_page_once() -> None:
    own = {page for page in DOCS.rglob("*.md") if page.parent != DOCS / "adr"} - {DOCS / "README.md"}
    own.add(DOCS / "adr" / "README.md")
    assert sorted(linked(DOCS / "README.md")) == sorted(own)
    navigation = yaml.safe_load((DOCS / "site" / "mkdocs.yml").read_text())["nav"]
    named = [page for section in navigation for page in leaves(section)]
    assert sorted(DOCS / page for page in named) == sorted({*own, DOCS / "README.md"})


def leaves(section: object) -> list[str]:
    if isinstance(section, dict):
        return [page for value in section.values() for page in leaves(value)]
    return [page for value in section for page in leaves(value)] if isinstance(section, list) else [str(section)]


WRAPPED = [
    page for page in PAGES if page.name not in GENERATED and page.parent.name not in ("adr", "measurements", "vectors")
]


@pytest.mark.parametrize("page", WRAPPED, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_prose_wraps_at_120(page: Path) -> None:
    lines = [line for line in prose(page).splitlines() if not line.startswith("|")]
    assert [line for line in lines if len(line) > 120] == []


SHELL = re.compile(r"^ *```sh\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
ENDS = {"&", "&&", "||", "|", ";", ">", ">>", "<"}


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each `packager` command in the shell blocks of a page."""
    for block in SHELL.findall(text):
        without = re.sub(r"<<'(\w+)'\n.*?^\1$", "", block, flags=re.MULTILINE | re.DOTALL)
        for line in without.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
            lexer.whitespace_split = True
            words: list[str] = []
            for word in [*lexer, ";"]:
                if word in ENDS:
                    if words[:1] == ["packager"]:
                        yield words[1:]
                    words = []
                else:
                    words.append(word)


@functools.cache
def parser(verb: str) -> argparse.ArgumentParser:
    return _parser.build_parser([verb])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_are_understood(page: Path) -> None:
    for words in commands(page.read_text("utf-8")):
        if not words or words[0] not in _verbs.list_verbs():
            assert words in ([], ["--version"]), words
            continue
        try:
            parser(words[0]).parse_args(words)
        except PackagerError as error:
            pytest.fail(f"packager {shlex.join(words)}: {error.message}")


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in WRAPPED:
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE))
        assert named <= targets, page


def test_the_diagram_shows_the_rooms_in_order() -> None:
    page = (DOCS / "explanation" / "architecture.md").read_text("utf-8")
    (diagram,) = CODE.findall(page)
    rows = [row.split("│")[1].split() for row in diagram.splitlines() if "│" in row]
    assert [room for row in reversed(rows) for room in row] == [room for room in ROOMS if room != "__main__"]


def test_the_front_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 120

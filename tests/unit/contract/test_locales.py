# SPDX-License-Identifier: Apache-2.0
"""Operators on texts that need a locale of the host: said at build, and judged where a bundle is to be served."""

from __future__ import annotations

import locale
from pathlib import Path
from typing import Any

import onnx
import pytest

from packager.contract import host, preflight
from packager.errors import StepError
from packager.graph import needs
from packager.steps import _cases
from tests.unit.exporters.conftest import opened

TEXT = """<ir_version: 8, opset_import: ["" : 17]> net (string[N] x) => (string[N] y)
{{ y = StringNormalizer <case_change_action = "UPPER"{more}> (x) }}"""
ABSENT = "tlh_KX.UTF-8"


def normaliser(name: str | None) -> Any:
    return onnx.parser.parse_model(TEXT.format(more=f', locale = "{name}"' if name else ""))


@pytest.mark.parametrize(("name", "asked"), [(None, ["en_US"]), ("de_DE.UTF-8", ["de_DE.UTF-8"]), ("C.UTF-8", [])])
def test_what_a_graph_asks_for(name: str | None, asked: list[str]) -> None:
    assert preflight.list_locales({"operators": needs.list_needs(normaliser(name))["operators"]}) == asked


def test_what_this_host_has_is_what_it_can_set() -> None:
    before = locale.setlocale(locale.LC_ALL)
    for name in ("C.UTF-8", "en_US.UTF-8", "de_DE.UTF-8", ABSENT):
        try:
            locale.setlocale(locale.LC_ALL, name)
            can = True
        except locale.Error:
            can = False
        finally:
            locale.setlocale(locale.LC_ALL, before)
        assert host.has_locale(name) == can, name
    assert locale.setlocale(locale.LC_ALL) == before


def test_a_host_without_it_is_told_so(tmp_path: Path) -> None:
    """The session cannot be made at all; that is no matter of ranges, nor of the file."""
    onnx.save(normaliser(ABSENT), tmp_path / "model.onnx")
    source = opened(tmp_path)
    case = _cases.Case("N=1", {"N": 1})
    feeds = _cases.draw_feeds({"inputs": [{"name": "x", "dtype": "string", "shape": ["N"]}]}, {}, case, 0)
    with pytest.raises(StepError, match=f"this host lacks the locale `{ABSENT}`") as caught:
        _cases.run_or_explain("source", case, source.run, feeds)
    assert f"`locale-gen {ABSENT}`" in (caught.value.hint or "")

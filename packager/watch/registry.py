# SPDX-License-Identifier: Apache-2.0
"""What `watch` asks an MLflow registry, and the tags that it writes there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from packager.sources import Settings
from packager.sources._mlflow import connect

_PAGE = 100
_TIMEOUT = 20  # seconds of one request


def list_aliases(address: str, names: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
    """Return the aliases of registered models, by name and alias, with the version each means now.

    A model that is not there is left out. Raises SourceError where the registry does not answer.
    """
    wanted = set(names)
    with connect(_settings(address), _TIMEOUT) as registry:
        pages = _pages(lambda token: registry.client.search_registered_models(max_results=_PAGE, page_token=token))
        return {
            model.name: {alias: str(version) for alias, version in dict(model.aliases).items()}
            for model in pages
            if model.name in wanted
        }


def list_tagged(address: str, names: Iterable[str], key: str, value: str) -> list[tuple[str, str]]:
    """Return (name, version) of the versions of registered models that have a tag. Raises SourceError."""
    wanted, text = set(names), f"tags.`{key}` = '{value}'"
    with connect(_settings(address), _TIMEOUT) as registry:
        pages = _pages(lambda token: registry.client.search_model_versions(text, max_results=_PAGE, page_token=token))
        found = [(version.name, str(version.version)) for version in pages if version.name in wanted]
    return sorted(found, key=lambda pair: (pair[0], int(pair[1])))


def write_tags(address: str, name: str, version: str, tags: Mapping[str, str]) -> None:
    """Write tags of one version; writing them again changes nothing. Raises SourceError."""
    with connect(_settings(address), _TIMEOUT) as registry:
        for key, value in tags.items():
            registry.client.set_model_version_tag(name, version, key, value)


def _settings(address: str) -> Settings:
    return Settings(Path("/"), tracking=address, timeout=_TIMEOUT)


def _pages(ask: Any) -> Iterator[Any]:
    token = None
    while token != "":
        page = ask(token)
        yield from page
        token = page.token or ""

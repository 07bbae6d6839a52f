# SPDX-License-Identifier: Apache-2.0
"""What a shell completes besides verbs and options: bundles of the local store, files, kinds and runtimes.

Called at every press of a key, so nothing is imported that is not needed, and nothing is created or swept.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable

from packager.cli._verbs import list_verbs as find_verbs

Completer = Callable[..., Iterable[str]]


def complete_with(action: argparse.Action, completer: Completer) -> None:
    """Let a shell complete the values of an argument."""
    action.completer = completer  # type: ignore[attr-defined]


def list_bundles(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """Return what BUNDLE may go on as: `name:version` of the store, and paths."""
    from argcomplete.completers import FilesCompleter

    from packager import api
    from packager.api import bundles

    named = bundles.list_names(api.Workspace.default(parsed_args.store))
    return [*(name for name in named if name.startswith(prefix)), *FilesCompleter()(prefix)]


def list_kinds(prefix: str, **_: object) -> list[str]:
    """Return what can be rendered."""
    from packager.api import deploy

    return [name for name in deploy.list_renderers() if name.startswith(prefix)]


def list_runtimes(prefix: str, **_: object) -> list[str]:
    """Return the runtimes of which something is known, with their versions once one is named."""
    from packager.api import runtimes

    name, equals, _rest = prefix.partition("==")
    if equals and name in runtimes.list_runtimes():
        found = [f"{name}=={version}" for version in runtimes.list_shipped_versions(name)]
    else:
        found = [f"{name}==" for name in runtimes.list_runtimes()]
    return [text for text in found if text.startswith(prefix)]


def list_verbs(prefix: str, **_: object) -> list[str]:
    """Return the verbs."""
    return [name for name in find_verbs() if name.startswith(prefix)]

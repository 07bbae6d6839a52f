# SPDX-License-Identifier: Apache-2.0
"""Options that turn knobs, for every verb that deploys: --values, --set, and the environment where it applies."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from packager.api.deploy import KnobSources, Override


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add --values and --set."""
    group = parser.add_argument_group("knobs, see `packager config`")
    group.add_argument(
        "--values",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="YAML of the site; give it again for another one over it",
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KNOB=VALUE",
        dest="knobs",
        help="one value over all others, such as server.port=9000",
    )


def read_sources(
    args: argparse.Namespace, *, environment: Mapping[str, str] | None = None, after: Iterable[Override] = ()
) -> KnobSources:
    """Return where the options of a verb say that values come from; `after` is over all of them."""
    from packager.api.deploy import KnobSources

    return KnobSources(tuple(args.values), environment, tuple(args.knobs), after=tuple(after))

# SPDX-License-Identifier: Apache-2.0
"""Write deployment files: a directory of its own, visible as one step.

It is written beside its place, complete, and exchanged with what was there, which must be an earlier rendering of the
same kind and bundle. Repositories of a Triton server, which bundles share, are in `packager.deploy.triton`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from packager import canonical, plugins
from packager.bundle.bundle import Bundle
from packager.bundle.knobs import KnobSources
from packager.deploy import wheel_files
from packager.deploy.renderers import _deployment
from packager.deploy.triton.repository import Signed, write_content
from packager.errors import IntegrityError, UsageError
from packager.files import exchange_directories, make_staging, read_own, storage_errors, sync_file_system
from packager.knobs.knobs import Override, Resolved
from packager.trust.model import Trust

_EPOCH = 315532800  # 1980-01-01, the first day that zip archives know


def list_kinds() -> tuple[str, ...]:
    """Return what can be rendered; `triton` and `ensemble` go into a repository, all others are directories."""
    return plugins.list_names("renderers")


def list_options(kind: str) -> tuple[_deployment.Option, ...]:
    """Return the options of a kind of directory."""
    found: tuple[_deployment.Option, ...] = getattr(plugins.load("renderers", kind), "OPTIONS", ())
    return found


@dataclass(frozen=True, slots=True)
class Rendering:
    """What was rendered: the knobs that it holds, and the commands that come next, one a line."""

    knobs: Resolved
    steps: tuple[str, ...]


def render_files(
    kind: str,
    bundle: Bundle,
    sources: KnobSources,
    out: Path,
    given: Mapping[str, str | None],
    trust: Trust | None = None,
    secret: Callable[[], bytes | None] = lambda: None,
) -> Rendering:
    """Resolve the knobs of `bundle` over the defaults of a kind, and write its files as `render_directory` does."""
    defaults = plugins.load("renderers", kind).DEFAULTS
    values = sources.resolve(bundle, before=(Override(name, text, kind) for name, text in defaults.items()))
    return Rendering(values, render_directory(kind, bundle, values, out, given, trust, secret))


def render_directory(
    kind: str,
    bundle: Bundle,
    values: Resolved,
    out: Path,
    given: Mapping[str, str | None],
    trust: Trust | None = None,
    secret: Callable[[], bytes | None] = lambda: None,
) -> tuple[str, ...]:
    """Write the files of `bundle`, which the caller has verified, to `out` and return what to do with them.

    The same bundle, knobs, options and trust give the same bytes. `given` are options by name, `trust` what a policy of
    admission is written from, `secret` returns the passphrase of a key that an option names. Raises UsageError,
    IntegrityError, StorageError; whatever was in `out` is still there then.
    """
    renderer = plugins.load("renderers", kind)
    chosen = _deployment.choose_options(renderer.OPTIONS, given)
    rendered: _deployment.Rendered = renderer.render(bundle, values, chosen)
    if trust is not None and hasattr(renderer, "with_policy"):
        rendered = renderer.with_policy(rendered, bundle, chosen, trust, secret)
    _check_place(out, kind, bundle.name)
    with storage_errors(out.parent), make_staging(out) as fresh:
        for path, (origin, _) in rendered.copied.items():
            _copy(bundle, origin, fresh / path)
        for path, data in rendered.made.items():
            (fresh / path).parent.mkdir(parents=True, exist_ok=True)
            (fresh / path).write_bytes(data)
        for path, origin in rendered.wheels.items():
            wheel = fresh / path
            _copy(bundle, origin, wheel)
            wheel_files.unpack(wheel, wheel.parent)
            wheel.unlink()
        for written in (fresh, *fresh.rglob("*")):  # whatever umask and clock: both become bytes of images
            written.chmod(0o755 if written.is_dir() else 0o644)
            os.utime(written, (_EPOCH, _EPOCH))
        sync_file_system(fresh)
        exchange_directories(fresh, out)
    return tuple(step.replace("OUT", str(out)) for step in rendered.steps)


def _check_place(out: Path, kind: str, name: str) -> None:
    """Raise UsageError if `out` holds something that is not ours to replace."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        found = canonical.load(read_own(out / _deployment.RECORD, 1 << 20), limit=1 << 20)
        ours = (found["kind"], found["name"]) == (kind, name)
    except (OSError, ValueError, KeyError, TypeError, IntegrityError):
        ours = False
    if not ours:
        raise UsageError(f"`{out}` holds something else", hint="name a new directory, or an earlier rendering of it")


def _copy(bundle: Bundle, origin: str, place: Path) -> None:
    blob = bundle.tree.get(origin)
    assert blob is not None  # noqa: S101 - the renderer took the path from the tree
    write_content(place, Signed(origin, blob, partial(bundle.medium.open_file, origin, blob)))

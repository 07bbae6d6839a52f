# SPDX-License-Identifier: Apache-2.0
"""Copy a bundle to an address: `oci://…` for a registry, `s3://…` and the like for a bucket."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from packager import names
from packager.errors import WrongSubjectError
from packager.events import OnEvent, Warned, ignore
from packager.records import dataclass
from packager.transport.copy import copy

if TYPE_CHECKING:
    from packager.bundle.bundle import Bundle
    from packager.transport.registry.wire import Settings
    from packager.transport.writers import Destination


@dataclass(frozen=True, slots=True)
class Pushed:
    """A bundle at an address: `reference` names exactly it there, `sent` is how many bytes of files had to move."""

    reference: str
    sent: int


def push_bundle(
    bundle: Bundle,
    address: str,
    settings: Callable[[], Settings],
    on_event: OnEvent = ignore,
    *,
    mount_from: str | None = None,
    force: bool = False,
    jobs: int | None = None,
) -> Pushed:
    """Copy `bundle` to `address`; without a tag there its version becomes the tag.

    `mount_from` is a repository of that registry, or a bundle of that bucket, that has some of its blobs. A tag of
    another bundle is only moved with `force`. Warns where the bundle cannot be fetched under that name.
    """
    to, pinned = _open_address(address, settings, mount_from, force=force)
    try:
        names.check_called(address, bundle.name, bundle.version)
    except WrongSubjectError:
        warning = f"`{address}` is not what `{bundle.name}:{bundle.version}` calls itself"
        on_event(Warned(f"{warning}: there it is only fetched by its digest, {bundle.digest}"))
    sent = copy(bundle, to, on_event, jobs=jobs, label="pushing")
    return Pushed(pinned(bundle), sent)


def _open_address(
    address: str, settings: Callable[[], Settings], mount_from: str | None, *, force: bool
) -> tuple[Destination, Callable[[Bundle], str]]:
    """Return the destination at an address, and what a bundle is called there for ever. Raises UsageError."""
    if address.startswith("oci://"):
        from packager.transport.registry import reference
        from packager.transport.registry.publish import open_registry

        there = reference.parse(address)
        to = open_registry(there, settings(), mount=mount_from, force=force)
        return to, lambda bundle: f"{reference.SCHEME}{there.host}/{there.name}@{bundle.digest}"
    from packager.transport.bucket import medium
    from packager.transport.bucket import reference as addresses

    place = addresses.parse(address)
    mount = addresses.parse(mount_from) if mount_from else None
    return medium.open_bucket(place, mount=mount, force=force), lambda bundle: str(place.pinned(bundle))

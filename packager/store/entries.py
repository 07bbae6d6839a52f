# SPDX-License-Identifier: Apache-2.0
"""A bundle as the store remembers it: its manifest, what refers to it, and why it may have its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace

from packager.canonical import JSON
from packager.errors import TooLargeError, UsageError
from packager.records import dataclass

MAX_REFERRERS = 1000  # of one bundle
BUILT, VERIFIED = "built", "verified"


@dataclass(frozen=True, slots=True)
class StoreEntry:
    """A bundle in the store: its manifest, what refers to it, and the predicates left to be signed, by type.

    `origin` is BUILT or VERIFIED: why the bundle may have its name. None: it was not verified.
    """

    manifest: str
    referrers: tuple[str, ...] = ()
    drafts: Mapping[str, str] = field(default_factory=dict)
    origin: str | None = None

    def to_json(self) -> JSON:
        drafts = {"drafts": dict(self.drafts)} if self.drafts else {}
        origin = {"origin": self.origin} if self.origin else {}
        return {"manifest": self.manifest, "referrers": list(self.referrers), **drafts, **origin}

    @staticmethod
    def from_json(record: JSON) -> StoreEntry:
        return StoreEntry(
            record["manifest"], tuple(record["referrers"]), record.get("drafts", {}), record.get("origin")
        )

    def joined(self, other: StoreEntry) -> StoreEntry:
        """Return this entry with the referrers and drafts of `other`, of the same manifest. Raises TooLargeError."""
        referrers = tuple(sorted({*self.referrers, *other.referrers}))
        if len(referrers) > MAX_REFERRERS:
            raise TooLargeError(
                f"too much is attached: expected at most {MAX_REFERRERS} referrers, got {len(referrers)}",
                subject=self.manifest,
            )
        return replace(
            self, referrers=referrers, drafts={**other.drafts, **self.drafts}, origin=self.origin or other.origin
        )


def name_is_taken(name: str, version: str, known: StoreEntry, new: StoreEntry) -> UsageError:
    """Return the error for a name that another bundle has already."""
    return UsageError(
        f"`{name}:{version}` is another bundle in the local store: {known.manifest}",
        hint=f"to let the name mean {new.manifest} from now on, repeat with --replace",
    )

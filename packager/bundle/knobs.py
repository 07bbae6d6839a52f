# SPDX-License-Identifier: Apache-2.0
"""The knobs of one bundle, and where a site's values for them come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packager import strictyaml
from packager.bundle.bundle import Bundle
from packager.knobs import catalogue, knobs
from packager.knobs.knobs import Override, Resolved


def knob_schema(bundle: Bundle) -> knobs.Schema:
    """Return the knobs of a bundle; one from before knobs has those of its contract. Raises IntegrityError."""
    if bundle.tree.get(knobs.FILE) is not None:
        return knobs.parse(bundle.read(knobs.FILE, limit=knobs.MAX_SCHEMA))
    return knobs.parse(catalogue.schema_bytes(bundle.contract.document))


@dataclass(frozen=True, slots=True)
class KnobSources:
    """Where values of knobs come from, the later over the earlier.

    `before` and `after` are single values under and over all others, `files` YAML files of the site, `environment`
    variables `PACKAGER_KNOB__GROUP__NAME` (None: not read), `assignments` texts `group.name=value` (of `--set`).
    """

    files: tuple[Path, ...] = ()
    environment: Mapping[str, str] | None = None
    assignments: tuple[str, ...] = ()
    before: tuple[Override, ...] = ()
    after: tuple[Override, ...] = ()

    @classmethod
    def from_values(cls, values: Mapping[str, str], origin: str) -> KnobSources:
        """Return values by name (`batch.max`), as text; `origin` is what messages call them."""
        return cls(after=tuple(Override(name, value, origin) for name, value in values.items()))

    def read(self, schema: knobs.Schema) -> Iterator[Override]:
        """Yield every value that is given, in order. Raises UsageError."""
        yield from self.before
        for path in self.files:
            yield from knobs.from_values(strictyaml.load(path), str(path), schema)
        if self.environment is not None:
            yield from knobs.from_environment(self.environment)
        yield from knobs.from_arguments(self.assignments)
        yield from self.after

    def resolve(self, bundle: Bundle, before: Iterable[Override] = ()) -> Resolved:
        """Return every knob of `bundle` with its value; `before` is under all that is given here.

        Raises UsageError for a value that is not allowed, alone or with others.
        """
        schema = knob_schema(bundle)
        found = knobs.resolve(schema, bundle.digest, (*before, *self.read(schema)))
        catalogue.check_together(found.values)
        return found

# SPDX-License-Identifier: Apache-2.0
"""Read the small YAML files that registries put beside a model. They are untrusted: plain data only, bounded."""

from __future__ import annotations

import yaml

from packager.canonical import JSON
from packager.errors import SourceError

_DEPTH = 64  # levels; a registry's own files have ten


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML without dates: a text that looks like one stays text, also when no calendar has it.

    The parser of libyaml where it is built in: that of Python takes time with the square of nested flow sequences.
    """


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:timestamp"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_mapping(data: bytes, name: str, limit: int) -> dict[str, JSON]:
    """Return the mapping that a file holds. Raises SourceError for anything else, whatever it is."""
    if len(data) > limit:
        raise SourceError(f"`{name}` is larger than {limit} bytes")
    try:
        _check_depth(data, name)
        value = yaml.load(data, _Loader)  # noqa: S506 - a safe loader with fewer types
    except yaml.YAMLError as error:
        raise SourceError(f"`{name}` is not YAML: {(str(error).splitlines() or ['damaged'])[0]:.200}") from error
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise SourceError(f"`{name}` holds what no YAML of a registry does: {type(error).__name__}") from error
    if not isinstance(value, dict):
        raise SourceError(f"`{name}` is not a mapping")
    return value


def _check_depth(data: bytes, name: str) -> None:
    depth = 0
    for event in yaml.parse(data, _Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEPTH:
            raise SourceError(f"`{name}` is nested deeper than {_DEPTH} levels")


def keep_plain_values(table: object) -> dict[str, JSON]:
    """Return the plain values of a mapping, by text keys, and lists of texts; what is nested deeper is left out.

    A file can refer to the same list a thousand million times: to write such a value as text never ends.
    """
    items = table.items() if isinstance(table, dict) else ()
    return {key: value for key, value in items if isinstance(key, str) and (_is_plain(value) or _are_texts(value))}


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | bool | int | float)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)

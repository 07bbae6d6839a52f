# SPDX-License-Identifier: Apache-2.0
"""`@dataclass(frozen=True, slots=True)` in a quarter of the time, for modules that every start imports (ADR 425).

The decorator of `dataclasses` compiles six methods of each class from text, 0.37 ms; a small `pull` imports 60 of
them. Here only `__init__` is compiled, and the other methods are shared functions. The class that results is a
dataclass: `fields`, `replace`, `asdict`, pattern matching and pickle take it as any other. Whatever is not plain
(another option, a base class, a method of one's own for what the decorator writes) is left to `dataclasses`.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass  # type checkers see the original
else:

    def dataclass(cls: type | None = None, **options: bool) -> Any:
        """Make a dataclass, as the decorator of `dataclasses` does."""
        if cls is not None or options != {"frozen": True, "slots": True}:
            return dataclasses.dataclass(cls, **options)
        return lambda plain: _make(plain) if _is_plain(plain) else dataclasses.dataclass(**options)(plain)


Class = TypeVar("Class", bound=type)

_OWN = {"__init__", "__eq__", "__hash__", "__repr__", "__setattr__", "__delattr__", "__slots__", "__getstate__"}
_OWN |= {"__setstate__", "__match_args__"}
_SPECIAL = ("ClassVar", "InitVar", "KW_ONLY")  # annotations that are no fields


@dataclasses.dataclass(frozen=True, slots=True)
class _Template:
    """What is equal in every class comes from this one: how it is pickled, and its parameters."""


def _is_plain(cls: type) -> bool:
    """Return whether `cls` has only what `_make` knows."""
    notes = getattr(cls, "__annotations__", {})
    values = [cls.__dict__[name] for name in notes if name in cls.__dict__]
    return (
        cls.__bases__ == (object,)
        and bool(notes)
        and not _OWN & cls.__dict__.keys()
        and all(isinstance(note, str) and not any(word in note for word in _SPECIAL) for note in notes.values())
        and all(
            value.init and value.kw_only is not True if isinstance(value, dataclasses.Field) else _is_hashable(value)
            for value in values
        )
    )


def _is_hashable(default: object) -> bool:
    return type(default).__hash__ is not None  # `dataclasses` refuses other defaults: they would be shared


def _make(cls: Class) -> Class:
    notes: dict[str, str] = cls.__annotations__
    fields = {name: _field(name, note, cls.__dict__.get(name, dataclasses.MISSING)) for name, note in notes.items()}
    body = {name: value for name, value in cls.__dict__.items() if name not in notes and name not in _DROPPED}
    body |= {
        "__slots__": tuple(fields),
        "__match_args__": tuple(fields),
        "__dataclass_fields__": fields,
        "__init__": _compile_init(cls, fields),
        "__compared__": _read_values([name for name, field in fields.items() if field.compare]),
    }
    body |= _SHARED
    made: Any = type(cls)(cls.__name__, cls.__bases__, body)
    made.__qualname__ = cls.__qualname__
    return cast(Class, made)


_DROPPED = {"__dict__", "__weakref__"}


def _field(name: str, note: str, default: Any) -> dataclasses.Field[Any]:
    found: Any = default if isinstance(default, dataclasses.Field) else dataclasses.field(default=default)
    found.name, found.type, found.kw_only, found._field_type = name, note, False, _FIELD
    return cast("dataclasses.Field[Any]", found)


_FIELD: Any = dataclasses._FIELD  # type: ignore[attr-defined]
_FACTORY: Any = dataclasses._HAS_DEFAULT_FACTORY  # type: ignore[attr-defined]


def _compile_init(cls: type, fields: dict[str, dataclasses.Field[Any]]) -> Any:
    known: dict[str, Any] = {"_set": object.__setattr__, "_factory": _FACTORY}
    parameters, rows = [], []
    for name, field in fields.items():
        value = name
        if field.default_factory is not dataclasses.MISSING:
            known[f"_make_{name}"] = field.default_factory
            parameters.append(f"{name}=_factory")
            value = f"_make_{name}() if {name} is _factory else {name}"
        elif field.default is not dataclasses.MISSING:
            known[f"_default_{name}"] = field.default
            parameters.append(f"{name}=_default_{name}")
        else:
            parameters.append(name)
        rows.append(f" _set(self, {name!r}, {value})")
    if hasattr(cls, "__post_init__"):
        rows.append(" self.__post_init__()")
    exec("\n".join([f"def __init__(self, {', '.join(parameters)}):", *rows]), known)  # noqa: S102 # names of fields
    made = known["__init__"]
    made.__qualname__, made.__module__ = f"{cls.__qualname__}.__init__", cls.__module__
    made.__annotations__ = {**{name: field.type for name, field in fields.items()}, "return": None}
    return made


def _read_values(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) > 1:
        return operator.attrgetter(*names)
    return lambda record: tuple(getattr(record, name) for name in names)  # a getter of one name makes no tuple


def _equal(self: Any, other: Any) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    values = self.__class__.__compared__
    return values(self) == values(other)


def _hash(self: Any) -> int:
    return hash(self.__class__.__compared__(self))


def _repr(self: Any) -> str:
    shown = [f"{name}={getattr(self, name)!r}" for name, field in self.__dataclass_fields__.items() if field.repr]
    return f"{self.__class__.__qualname__}({', '.join(shown)})"


def _refuse_to_set(self: Any, name: str, value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


_SHARED = {
    "__eq__": _equal,
    "__hash__": _hash,
    "__repr__": _repr,
    "__setattr__": _refuse_to_set,
    "__delattr__": _refuse_to_delete,
    **{name: _Template.__dict__[name] for name in ("__dataclass_params__", "__getstate__", "__setstate__")},
}

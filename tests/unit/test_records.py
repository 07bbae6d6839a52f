# SPDX-License-Identifier: Apache-2.0
"""Quick dataclasses are dataclasses: held against the decorator that they stand in for."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from dataclasses import field
from typing import Any, ClassVar

import pytest

from packager import records


def declare(decorator: Any) -> Any:
    """Declare a class with every kind of field that is made here."""

    @decorator(frozen=True, slots=True)
    class Sample:
        """A sample."""

        name: str
        size: int = 3
        notes: dict[str, str] = field(default_factory=dict, compare=False)
        secret: str = field(default="s", repr=False)

        def __post_init__(self) -> None:
            if self.size < 0:
                raise ValueError("negative")

        @property
        def double(self) -> int:
            return 2 * self.size

    return Sample


Ours, Theirs = declare(records.dataclass), declare(dataclasses.dataclass)
Ours.__qualname__ = Theirs.__qualname__ = "Sample"


@records.dataclass(frozen=True, slots=True)
class One:
    value: float


def test_it_is_the_quick_one() -> None:
    assert Ours.__hash__ is One.__hash__ is not Theirs.__hash__


def test_they_are_equal_to_look_at() -> None:
    assert inspect.signature(Ours) == inspect.signature(Theirs)
    assert Ours.__slots__ == Theirs.__slots__
    assert Ours.__match_args__ == Theirs.__match_args__
    assert Ours.__doc__ == Theirs.__doc__
    for mine, other in zip(dataclasses.fields(Ours), dataclasses.fields(Theirs), strict=True):
        assert repr(mine) == repr(other)
    assert repr(Ours("a", secret="t")) == repr(Theirs("a", secret="t")) == "Sample(name='a', size=3, notes={})"
    assert dataclasses.asdict(Ours("a")) == dataclasses.asdict(Theirs("a"))
    assert repr(Ours.__dataclass_params__) == repr(Theirs.__dataclass_params__)


@pytest.mark.parametrize("made", [Ours, Theirs], ids=["ours", "theirs"])
def test_they_behave_alike(made: Any) -> None:
    one = made("a", 4, {"k": "v"})
    assert one == made("a", 4) != made("a", 5)
    assert hash(one) == hash(made("a", 4))
    assert one != "a"
    assert (made("a").notes is made("a").notes) is False
    assert dataclasses.replace(one, size=5) == made("a", 5)
    assert copy.deepcopy(one) == one
    assert one.double == 8
    match one:
        case made(name, size):
            assert (name, size) == ("a", 4)
    with pytest.raises(ValueError, match="negative"):
        made("a", -1)
    for wrong in ({}, {"name": "a", "more": 1}):
        with pytest.raises(TypeError, match="argument"):
            made(**wrong)
    with pytest.raises(dataclasses.FrozenInstanceError, match="'size'"):
        one.size = 1
    with pytest.raises(dataclasses.FrozenInstanceError, match="'size'"):
        del one.size
    with pytest.raises((AttributeError, TypeError)):
        one.other = 1


def test_records_are_pickled() -> None:
    assert pickle.loads(pickle.dumps(One(2.0))) == One(2.0)
    nan = float("nan")
    assert One(nan) == One(nan)


def test_what_is_not_plain_is_left_to_the_original() -> None:
    @records.dataclass(frozen=True, slots=True)
    class Counted:
        count: ClassVar[int] = 1
        name: str

    @records.dataclass(frozen=True, slots=True)
    class Longer(One):
        more: int = 0

    @records.dataclass(frozen=True, slots=True)
    class Own:
        name: str

        def __eq__(self, other: object) -> bool:
            return True

    @records.dataclass(slots=True)
    class Mutable:
        name: str

    assert Counted("a").name == "a"
    assert Longer(1.0, 2) == Longer(1.0, 2)
    assert Longer(1.0) != One(1.0)
    assert Own("a") == Own("b")
    changed = Mutable("a")
    changed.name = "b"
    assert One.__repr__ not in (Counted.__repr__, Longer.__repr__, Own.__repr__, Mutable.__repr__)
    with pytest.raises(ValueError, match="mutable default"):

        @records.dataclass(frozen=True, slots=True)
        class Shared:
            names: list[str] = []  # noqa: RUF012

# SPDX-License-Identifier: Apache-2.0
"""Check a `.pt2` archive, so that opening it runs no code of its author.

`torch.export.load` unpickles weights that are marked so, custom objects, and example inputs even when they are more
than tensors (it leaves the weights-only subset by itself); and it evaluates symbolic lengths as Python expressions.
All of that is refused here, before the archive is handed over.
"""

from __future__ import annotations

import ast
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packager.canonical import JSON
from packager.errors import StepError

_JSON_LIMIT = 256 << 20
_SLACK, _RATIO = 64 << 20, 20  # bytes an archive may unpack to, besides so many times its size: weights are stored
_AGAIN = "save the model again"
_CLASS = re.compile(r"[A-Z]\w+")  # sympy and torch write lengths as constructor calls: `Add(Symbol('s0'), Integer(1))`
_SYMBOL = re.compile(r"[a-z]+\d+|oo|int_oo|true|false")
_PLAIN = (
    ast.Expression,
    ast.BinOp,
    ast.UnaryOp,
    ast.Compare,
    ast.operator,
    ast.unaryop,
    ast.cmpop,
    ast.keyword,
    ast.Load,
)


def refuse_bomb(path: Path, what: str = "readable") -> None:
    """Raise StepError for an archive that unpacks to absurd sizes or names a member twice, or is not one."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise StepError(f"`{path.name}` is not a {what} archive: {error}", hint=_AGAIN) from error
    size, most = sum(member.file_size for member in members), _SLACK + _RATIO * path.stat().st_size
    if size > most:
        raise StepError(f"`{path.name}` unpacks to {size} bytes, expected at most {most}", hint=_AGAIN)
    if len({member.filename for member in members}) < len(members):
        raise StepError(f"`{path.name}` names a member twice", hint=_AGAIN)


def refuse_code(path: Path, torch: Any) -> None:
    """Raise StepError, naming the member, for an archive that only opens by running code, or is not one."""
    refuse_bomb(path, "`torch.export`")
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                _check(archive, name, torch)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise StepError(f"`{path.name}` is not a `torch.export` archive: {error}") from error


def _check(archive: zipfile.ZipFile, name: str, torch: Any) -> None:
    folder, _, file = name.rpartition("/")
    pickled = folder.endswith(("weights", "constants")) and file.endswith(".pt")  # the layout before torch 2.9
    if pickled or file.startswith(("custom_obj", "opaque_obj")):
        raise _runs_code(name)
    if folder.endswith("sample_inputs"):
        _check_pickle(archive, name, torch)
    if folder.endswith(("models", "weights", "constants")) and file.endswith(".json"):
        _check_json(archive, name)


def _check_pickle(archive: zipfile.ZipFile, name: str, torch: Any) -> None:
    with archive.open(name) as member:
        try:
            torch.load(member, weights_only=True)
        except Exception as error:  # whatever the restricted unpickler says, the answer is to refuse
            raise _runs_code(name) from error


def _check_json(archive: zipfile.ZipFile, name: str) -> None:
    if archive.getinfo(name).file_size > _JSON_LIMIT:
        raise ValueError(f"`{name}` is larger than {_JSON_LIMIT} bytes")
    for key, value in _entries(json.loads(archive.read(name))):
        if (key == "use_pickle" and value) or (key == "expr_str" and not _is_length(value)):
            raise _runs_code(name)


def _entries(value: JSON) -> Iterator[tuple[str, JSON]]:
    """Yield every key and member of nested JSON."""
    for key, member in value.items() if isinstance(value, dict) else (("", item) for item in value):
        yield key, member
        if isinstance(member, dict | list):
            yield from _entries(member)


def _is_length(text: JSON) -> bool:
    """Say whether evaluating `text` can only build a symbolic length.

    Text inside it is allowed as the name of a symbol only: sympy's constructors evaluate the texts they are given.
    """
    try:
        tree = ast.parse(str(text), mode="eval")
    except (SyntaxError, RecursionError):
        return False
    named = {id(c.args[0]) for c in ast.walk(tree) if isinstance(c, ast.Call) and _constructs(c, "Symbol") and c.args}
    called = {id(c.func) for c in ast.walk(tree) if isinstance(c, ast.Call) and _constructs(c, None)}
    return all(_allowed(node, id(node) in named, id(node) in called) for node in ast.walk(tree))


def _constructs(call: ast.Call, name: str | None) -> bool:
    function = call.func
    return isinstance(function, ast.Name) and bool(_CLASS.fullmatch(function.id)) and name in (None, function.id)


def _allowed(node: ast.AST, names_symbol: bool, is_constructor: bool) -> bool:
    match node:
        case ast.Constant(value=str() as text):
            return names_symbol and bool(_SYMBOL.fullmatch(text))
        case ast.Constant(value=value):
            return isinstance(value, bool | int | float)
        case ast.Name(id=name):
            return is_constructor or bool(_SYMBOL.fullmatch(name))
        case ast.Call(func=function):
            return isinstance(function, ast.Name)
        case _:
            return isinstance(node, _PLAIN)


def _runs_code(name: str) -> StepError:
    return StepError(
        f"member `{name}` of the archive can only be opened by running code of its author",
        hint="export the program again with plain tensors as inputs and weights",
    )

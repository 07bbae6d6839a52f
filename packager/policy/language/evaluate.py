# SPDX-License-Identifier: Apache-2.0
"""Evaluate a program over an input, as OPA does with strict errors of built-ins, and stricter in rules that decide.

An error of a built-in, two values of one rule, and recursion end the evaluation. Undefined values are as in Rego: a
statement with one does not hold. In a rule that denies, that would hide a finding, so there (and wherever absence would
make the result milder: under `not` in `allow`, in comprehensions) a stated member that is missing ends the evaluation,
as does a function without a value, or a comparison that can never hold. Membership of a set, a rule that does not hold,
and what is under `not` in a rule that denies are tests for absence, so there it is no error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from packager.policy.language.documents import Document
from packager.policy.language.syntax import (
    Bind,
    Body,
    Call,
    Comprehension,
    Const,
    Every,
    Items,
    Members,
    Not,
    Ref,
    Rule,
    SomeIn,
    Statement,
    Term,
    Test,
    Var,
)
from packager.policy.language.values import (
    UNDEFINED,
    Key,
    Obj,
    RegoError,
    Set,
    Undefined,
    UndefinedError,
    Value,
    make_key,
    type_name,
)

DENYING = frozenset(("deny", "violation", "warn"))
DECIDING = DENYING | {"allow"}


class BuiltinError(Exception):
    """A built-in has no value: its operands have the wrong type, or no meaning to it."""


Env: TypeAlias = Mapping[str, Value]
Found: TypeAlias = Iterator[tuple[Value, Env]]
Builtin: TypeAlias = Callable[..., Any]


class Evaluator:
    """One evaluation. Every rule has one value in it, computed once."""

    def __init__(self, rules: Sequence[Rule], depth: int, document: Value, builtins: Mapping[str, Builtin]) -> None:
        self._rules, self._depth, self._input, self._builtins = rules, depth, document, builtins
        self._named: dict[str, list[Rule]] = {}
        self._functions: dict[str, list[Rule]] = {}
        for rule in rules:
            called = rule.kind == "function" or (rule.kind == "default" and rule.args)
            name = "data." + ".".join(str(item.value) for item in rule.path if isinstance(item, Const))
            (self._functions.setdefault(name, []) if called else self._named.setdefault(rule.name, [])).append(rule)
        self._values: dict[tuple[str, bool | None, Key], Value | Undefined] = {}
        self._active: set[str] = set()
        self._careful: bool | None = None  # True: absence is an error; None: nothing is decided yet

    def document(self) -> Obj:
        """Return the values of all rules that have one. Raises RegoError."""
        found = []
        for name in sorted(self._named):
            self._careful = None if name not in DECIDING else name in DENYING
            value = self._rule(name)
            if not isinstance(value, Undefined):
                found.append((name, value))
        return Obj(found)

    # rules

    @contextmanager
    def _with(self, careful: bool | None) -> Iterator[None]:
        before, self._careful = self._careful, careful
        try:
            yield
        finally:
            self._careful = before

    def _once(self, name: str, arguments: Key, compute: Callable[[], Value | Undefined]) -> Value | Undefined:
        position = (name, self._careful, arguments)
        if position not in self._values:
            if name in self._active:
                raise RegoError(f"rule `{name}` is recursive")
            self._active.add(name)
            try:
                self._values[position] = compute()
            finally:
                self._active.discard(name)
        return self._values[position]

    def _rule(self, name: str) -> Value | Undefined:
        with self._with(True if name in DENYING else self._careful):
            return self._once(name, (), lambda: self._document_of(name))

    def _document_of(self, name: str) -> Value | Undefined:
        tree, default = Document(), UNDEFINED
        for rule in self._named[name]:
            if rule.kind == "default":
                default = next((value for value, _ in self._terms(rule.value, {})), UNDEFINED)
                continue
            tree.prepare(rule)
            for value, env in self._definitions(rule, {}):
                for path in self._paths(rule.path[1:], env):
                    tree.put(path, value, rule)
        found = tree.value()
        return default if isinstance(found, Undefined) else found

    def _definitions(self, rule: Rule, env: Env) -> Found:
        """Yield the values of a rule, with the variables of each; those of `else` where its body does not hold."""
        for body, term in ((rule.body, rule.value), *((lines, other) for other, lines in rule.elses)):
            holds = False
            for there in self._body(body, env):
                holds = True
                yield from self._terms(term, there)
            if holds:
                return

    def _paths(self, terms: Sequence[Term], env: Env) -> Iterator[tuple[Value, ...]]:
        if not terms:
            yield ()
            return
        for value, there in self._terms(terms[0], env):
            for rest in self._paths(terms[1:], there):
                yield (value, *rest)

    def _function(self, name: str, args: tuple[Value, ...]) -> Value | Undefined:
        return self._once(name, make_key(args), lambda: self._answer(name, args))

    def _answer(self, name: str, args: tuple[Value, ...]) -> Value | Undefined:
        found: Value | Undefined = UNDEFINED
        default: Value | Undefined = UNDEFINED
        for rule in self._functions[name]:
            if rule.kind == "default":
                default = next((value for value, _ in self._terms(rule.value, {})), UNDEFINED)
                continue
            for env in self._match_all(rule.args, args, {}):
                for value, _ in self._definitions(rule, env):
                    if not isinstance(found, Undefined) and make_key(found) != make_key(value):
                        raise RegoError(f"line {rule.line}: function `{rule.name}` has two values for one question")
                    found = value
        return default if isinstance(found, Undefined) else found

    # statements

    def _body(self, body: Body, env: Env) -> Iterator[Env]:
        if not body:
            yield env
            return
        for there in self._statement(body[0], env):
            yield from self._body(body[1:], there)

    def _statement(self, line: Statement, env: Env) -> Iterator[Env]:
        if line.replaced:
            for document in self._replaced(line, env, 0, self._input):
                other = Evaluator(self._rules, self._depth, document, self._builtins)
                other._careful = self._careful
                yield from other._evaluate_statement(line, env)
        else:
            yield from self._evaluate_statement(line, env)

    def _evaluate_statement(self, line: Statement, env: Env) -> Iterator[Env]:
        match line.what:
            case Test(term):
                for value, there in self._terms(term, env, alone=True):
                    if value is not False:
                        yield there
            case Bind(pattern, value_term):
                for value, there in self._terms(value_term, env):
                    yield from self._match(pattern, value, there)
            case SomeIn():
                yield from self._some(line.what, line.line, env)
            case Every():
                yield from self._every(line.what, line.line, env)
            case Not(inner):
                with self._with(None if self._careful is None else not self._careful):
                    holds = next(self._statement(inner, env), None) is not None
                if not holds:
                    yield env

    def _some(self, what: SomeIn, line: int, env: Env) -> Iterator[Env]:
        for collection, there in self._terms(what.domain, env):
            for position, item in self._entries(collection, line):
                for inner in (there,) if what.name is None else self._match(what.name, position, there):
                    yield from self._match(what.value, item, inner)

    def _every(self, what: Every, line: int, env: Env) -> Iterator[Env]:
        for collection, there in self._terms(what.domain, env):
            entries = self._entries(collection, line)
            if all(self._holds(what, position, item, there) for position, item in entries):
                yield there

    def _holds(self, what: Every, position: Value, item: Value, env: Env) -> bool:
        for there in (env,) if what.name is None else self._match(what.name, position, env):
            for inner in self._match(what.value, item, there):
                if next(self._body(what.body, inner), None) is not None:
                    return True
        return False

    def _replaced(self, line: Statement, env: Env, position: int, document: Value) -> Iterator[Value]:
        if position == len(line.replaced):
            yield document
            return
        path, term = line.replaced[position]
        for value, _ in self._terms(term, env):
            yield from self._replaced(line, env, position + 1, _put(document, path, value))

    def _entries(self, collection: Value, line: int) -> Iterator[tuple[Value, Value]]:
        if isinstance(collection, tuple):
            return iter(enumerate(collection))
        if isinstance(collection, Obj):
            return iter(collection)
        if isinstance(collection, Set):
            return ((item, item) for item in collection)
        if self._careful:
            raise UndefinedError(f"line {line}: expected a collection behind `in`, got {type_name(collection)}")
        return iter(())

    # terms

    def _terms(self, term: Term, env: Env, *, alone: bool = False) -> Found:
        """Yield the values of a term, each with all variables; `alone`: the term is a test for its presence."""
        match term:
            case Const(value):
                yield value, env
            case Var(name):
                yield (self._input if name == "input" else env[name]), env
            case Ref(head, path, line):
                yield from self._walk_reference(head, path, line, env, alone)
            case Call(name, args, line):
                for values, there in self._all(args, env):
                    value = self._call(name, values, line)
                    if not isinstance(value, Undefined):
                        yield value, there
            case Comprehension():
                yield self._comprehended(term, env), env
            case Items() | Members():
                yield from self._made(term, env)

    def _made(self, term: Items | Members, env: Env) -> Found:
        if isinstance(term, Items):
            for values, there in self._all(term.items, env):
                yield (values if term.kind == "array" else Set(values)), there
            return
        for values, there in self._all([item for pair in term.pairs for item in pair], env):
            yield Obj(zip(values[::2], values[1::2], strict=True)), there

    def _all(self, terms: Sequence[Term], env: Env) -> Iterator[tuple[tuple[Value, ...], Env]]:
        if not terms:
            yield (), env
            return
        for value, there in self._terms(terms[0], env):
            for rest, last in self._all(terms[1:], there):
                yield (value, *rest), last

    def _comprehended(self, term: Comprehension, env: Env) -> Value:
        with self._with(None if self._careful is None else True):
            found: list[Value] = []
            members = Obj()
            for there in self._body(term.body, env):
                if term.name is None:
                    found += [value for value, _ in self._terms(term.value, there)]
                    continue
                for (name, value), _ in self._all((term.name, term.value), there):
                    known = members.entries.setdefault(make_key(name), (name, value))
                    if make_key(known[1]) != make_key(value):
                        raise RegoError(f"line {term.line}: an object has two values for one name")
        return members if term.kind == "object" else tuple(found) if term.kind == "array" else Set(found)

    def _call(self, name: str, args: tuple[Value, ...], line: int) -> Value | Undefined:
        if name in self._functions:
            return self._function(name, args)
        if name == "equal" and self._careful:
            _comparable(args[0], args[1], line)
        try:
            value = self._builtins[name](*args)
        except BuiltinError as fault:
            raise RegoError(f"line {line}: {name}: {fault}") from None
        if isinstance(value, Undefined) and self._careful:
            raise UndefinedError(f"line {line}: `{name}` has no answer here")
        return value

    def _walk_reference(self, head: Term, path: Sequence[Term], line: int, env: Env, alone: bool) -> Found:
        if isinstance(head, Var) and head.name == "data":
            rule = path[self._depth]
            name = str(rule.value) if isinstance(rule, Const) else ""
            if name not in self._named:
                raise RegoError(f"line {line}: `{name}` is a function, and no value")
            value = self._rule(name)
            if not isinstance(value, Undefined):
                yield from self._walk(value, path[self._depth + 1 :], line, env, alone)
            return
        for value, there in self._terms(head, env):
            yield from self._walk(value, path, line, there, alone)

    def _walk(self, value: Value, path: Sequence[Term], line: int, env: Env, alone: bool) -> Found:
        if not path:
            yield value, env
            return
        first = path[0]
        if isinstance(first, Var) and first.name not in env and first.name != "input":
            for position, item in _inside(value):
                yield from self._walk(item, path[1:], line, {**env, first.name: position}, alone)
            return
        for position, there in self._terms(first, env):
            item = lookup(value, position)
            if not isinstance(item, Undefined):
                yield from self._walk(item, path[1:], line, there, alone)
            elif self._careful and not isinstance(value, Set) and not (alone and not isinstance(first, Const)):
                raise UndefinedError(
                    f"line {line}: `{_shown(position)}` is undefined in {type_name(value)}, so the rule would pass: "
                    f"read it with `object.get` or under `not`"
                )

    # patterns

    def _match_all(self, patterns: Sequence[Term], values: Sequence[Value], env: Env) -> Iterator[Env]:
        if not patterns:
            yield env
            return
        for there in self._match(patterns[0], values[0], env):
            yield from self._match_all(patterns[1:], values[1:], there)

    def _match(self, pattern: Term, value: Value, env: Env) -> Iterator[Env]:
        """Yield the variables with which a pattern is the value."""
        match pattern:
            case Var(name) if name not in env and name != "input":
                yield {**env, name: value}
            case Items("array", items):
                if isinstance(value, tuple) and len(value) == len(items):
                    yield from self._match_all(items, value, env)
            case Members(pairs):
                if isinstance(value, Obj):
                    yield from self._match_members(pairs, value, env)
            case _:
                for other, there in self._terms(pattern, env):
                    if make_key(other) == make_key(value):
                        yield there

    def _match_members(self, pairs: Sequence[tuple[Term, Term]], value: Obj, env: Env) -> Iterator[Env]:
        for names, there in self._all([name for name, _ in pairs], env):
            found = [lookup(value, name) for name in names]
            if len(set(map(make_key, names))) == len(value) and not any(isinstance(item, Undefined) for item in found):
                yield from self._match_all([item for _, item in pairs], found, there)


def _comparable(a: Value, b: Value, line: int) -> None:
    """Raise UndefinedError for a comparison that can never be true; null may be compared with everything."""
    if type_name(a) != type_name(b) and a is not None and b is not None:
        raise UndefinedError(f"line {line}: a {type_name(a)} is compared with a {type_name(b)}, which never are equal")


def lookup(value: Value, position: Value) -> Value | Undefined:
    """Return the value at a position of a collection."""
    if isinstance(value, tuple):
        inside = isinstance(position, int) and not isinstance(position, bool) and 0 <= position < len(value)
        return value[position] if inside else UNDEFINED
    if isinstance(value, Obj):
        entry = value.entries.get(make_key(position))
        return UNDEFINED if entry is None else entry[1]
    if isinstance(value, Set):
        return value.entries.get(make_key(position), UNDEFINED)
    return UNDEFINED


def _inside(value: Value) -> Iterator[tuple[Value, Value]]:
    if isinstance(value, tuple):
        return iter(enumerate(value))
    if isinstance(value, Obj):
        return iter(value)
    return ((item, item) for item in value) if isinstance(value, Set) else iter(())


def _put(document: Value, path: Sequence[str], value: Value) -> Value:
    if not path:
        return value
    found = Obj(document) if isinstance(document, Obj) else Obj()
    inner = lookup(found, path[0])
    found.entries[make_key(path[0])] = (
        path[0],
        _put(Obj() if isinstance(inner, Undefined) else inner, path[1:], value),
    )
    return found


def _shown(position: Value) -> str:
    return str(position) if isinstance(position, str | int) else type_name(position)

# SPDX-License-Identifier: Apache-2.0
"""Resolve the names of a program: variables get unique names, rules become references below `data`.

A name is a declared variable (`:=`, `some`, an argument), else the alias of an import, else a rule of this package,
else an undeclared variable, whose scope is the whole rule. A function that does not exist and a built-in that is not
evaluated here are refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace

from packager.policy.language.syntax import (
    Bind,
    Body,
    Call,
    Comprehension,
    Const,
    Every,
    Items,
    Members,
    Module,
    Not,
    Ref,
    Rule,
    Some,
    SomeIn,
    Statement,
    Term,
    Test,
    Var,
)
from packager.policy.language.values import RegoError

ROOTS = ("input", "data")


class Scope:
    """The variables declared in a block and in the blocks around it."""

    def __init__(self, outer: Scope | None = None) -> None:
        self._outer = outer
        self.known: dict[str, str] = {}
        self._fresh: itertools.count[int] = outer._fresh if outer else itertools.count()
        self.used: set[str] = outer.used if outer else set()
        self.args: frozenset[str] = outer.args if outer else frozenset()

    def declare(self, var: Var) -> Var:
        """Give a variable a unique name. Raises RegoError where it is declared here already."""
        if var.name in ROOTS:
            raise RegoError(f"line {var.line}: `{var.name}` cannot be a variable")
        if var.name != "_" and (var.name in self.known or var.name in self.args):
            raise RegoError(f"line {var.line}: `{var.name}` is assigned twice")
        name = f"{var.name}#{next(self._fresh)}"
        if var.name != "_":
            self.known[var.name] = name
        return Var(name, var.line)

    def find(self, name: str) -> str | None:
        """Return the unique name of a variable that is declared here or around."""
        if name in self.known:
            self.used.add(self.known[name])
            return self.known[name]
        return self._outer.find(name) if self._outer else None

    def any_variable(self, var: Var) -> Var:
        """Return an undeclared variable."""
        return Var(f"_#{next(self._fresh)}", var.line) if var.name == "_" else var


class Names:
    """The names of one module."""

    def __init__(self, module: Module, builtins: Mapping[str, int], refuse: Callable[[str, int], RegoError]) -> None:
        self._package = module.package
        self._builtins, self._refuse = builtins, refuse
        self._rules = {rule.name for rule in module.rules}
        for name in (*self._rules, *(alias for alias, _ in module.imports)):
            if name in ROOTS or name == "_":
                raise RegoError(f"`{name}` cannot be the name of a rule or of an import")
        self._imports: dict[str, tuple[str, ...]] = {}
        for alias, path in module.imports:
            if alias in self._imports or alias in self._rules:
                raise RegoError(f"`{alias}` is imported, and something else has that name")
            self._imports[alias] = path
        self.functions: dict[str, int] = {}
        self._declared: list[Var] = []
        for rule in module.rules:
            self._note(rule)

    def _note(self, rule: Rule) -> None:
        """Record the functions; one name has one number of arguments, and is not also a rule."""
        called = rule.kind == "function" or (rule.kind == "default" and bool(rule.args))
        if not called:
            if ".".join(map(_word, rule.path)) in self.functions:
                raise RegoError(f"line {rule.line}: `{rule.name}` is a function and a rule")
            return
        name = ".".join(map(_word, rule.path))
        if self.functions.setdefault(name, len(rule.args)) != len(rule.args):
            raise RegoError(f"line {rule.line}: `{name}` has different numbers of arguments")

    def resolve(self, rule: Rule) -> Rule:
        """Return a rule in which every name is resolved. Raises RegoError."""
        scope, self._declared = Scope(), []
        args = tuple(self._pattern(item, scope) for item in rule.args)
        scope.args = frozenset(scope.known)
        body, inner = self._body(rule.body, scope)
        path = (rule.path[0], *(self._term(item, inner) for item in rule.path[1:]))
        value = self._term(rule.value, inner)
        elses = []
        for other, more in rule.elses:
            lines, local = self._body(more, scope)
            elses.append((self._term(other, local), lines))
        for var in self._declared:
            if var.name not in scope.used:
                raise RegoError(f"line {var.line}: `{var.name.partition('#')[0]}` is declared and not used")
        return replace(rule, path=path, args=args, value=value, body=body, elses=tuple(elses))

    def _body(self, body: Body, outer: Scope) -> tuple[Body, Scope]:
        scope = Scope(outer)
        found = [line for line in (self._statement(item, scope) for item in body) if line is not None]
        self._early(found, scope)
        return tuple(found), scope

    def _early(self, found: list[Statement], scope: Scope) -> None:
        """Refuse a name that is used before the line that declares it."""
        later = set(scope.known)
        for line in found:
            for var in list_variables(line):
                if var.name in later:
                    raise RegoError(f"line {var.line}: `{var.name}` is used before it is declared")

    def _statement(self, line: Statement, scope: Scope) -> Statement | None:
        replaced = tuple((path, self._term(term, scope)) for path, term in line.replaced)
        match line.what:
            case Some(variables_):
                self._declared += [scope.declare(var) for var in variables_]
                return None
            case Test(term):
                return Statement(Test(self._term(term, scope)), line.line, replaced)
            case Bind(pattern, value, declares):
                found = self._term(value, scope)
                shown = self._pattern(pattern, scope) if declares else self._term(pattern, scope)
                return Statement(Bind(shown, found, declares), line.line, replaced)
            case SomeIn(name, value, domain):
                position = self._term(domain, scope)
                named = None if name is None else self._pattern(name, scope)
                return Statement(SomeIn(named, self._pattern(value, scope), position), line.line, replaced)
            case Every(name, value, domain, body):
                position, inner = self._term(domain, scope), Scope(scope)
                named = None if name is None else self._pattern(name, inner)
                shown = self._pattern(value, inner)
                return Statement(Every(named, shown, position, self._body(body, inner)[0]), line.line, replaced)
            case Not(inner_line):
                inside = self._statement(inner_line, Scope(scope))
                if inside is None:
                    raise RegoError(f"line {line.line}: `some` under `not` is not evaluated here")
                return Statement(Not(inside), line.line, replaced)

    def _pattern(self, term: Term, scope: Scope) -> Term:
        """Return a term that declares its variables."""
        match term:
            case Var():
                return scope.declare(term)
            case Items("array", items):
                return Items("array", tuple(self._pattern(item, scope) for item in items))
            case Members(pairs):
                return Members(tuple((self._term(name, scope), self._pattern(item, scope)) for name, item in pairs))
        return self._term(term, scope)

    def _term(self, term: Term, scope: Scope) -> Term:
        match term:
            case Const():
                return term
            case Var():
                return self._var(term, scope)
            case Ref(head, path, line):
                start = head if isinstance(head, Var) and head.name in ROOTS else self._term(head, scope)
                rest = tuple(self._term(item, scope) for item in path)
                return self._place(
                    Ref(start.head, (*start.path, *rest), line) if isinstance(start, Ref) else Ref(start, rest, line)
                )
            case Call(name, args, line):
                return self._call(name, tuple(self._term(item, scope) for item in args), line, scope)
            case Items(kind, items):
                return Items(kind, tuple(self._term(item, scope) for item in items))
            case Members(pairs):
                return Members(tuple((self._term(name, scope), self._term(item, scope)) for name, item in pairs))
            case Comprehension(kind, name, value, body, line):
                lines, inner = self._body(body, scope)
                named = None if name is None else self._term(name, inner)
                return Comprehension(kind, named, self._term(value, inner), lines, line)

    def _place(self, ref: Ref) -> Ref:
        """Return a reference; of `data` only what this package defines is known. Raises RegoError."""
        if isinstance(ref.head, Var) and ref.head.name == "data":
            here = [item.value if isinstance(item, Const) else None for item in ref.path[: len(self._package) + 1]]
            if here[:-1] != list(self._package) or here[-1] not in self._rules:
                raise RegoError(f"line {ref.line}: only rules of `data.{'.'.join(self._package)}` are known here")
        return ref

    def _var(self, var: Var, scope: Scope) -> Term:
        if var.name == "data":
            raise RegoError(f"line {var.line}: `data` as a whole is not evaluated here")
        if var.name == "input":
            return var
        own = scope.find(var.name)
        if own is not None:
            return Var(own, var.line)
        if var.name in self._imports:
            path = self._imports[var.name]
            return self._place(Ref(Var(path[0], var.line), tuple(Const(item) for item in path[1:]), var.line))
        if var.name in self._rules:
            return Ref(Var("data", var.line), tuple(Const(item) for item in (*self._package, var.name)), var.line)
        return scope.any_variable(var)

    def _call(self, name: str, args: tuple[Term, ...], line: int, scope: Scope) -> Call:
        own = "data." + ".".join(self._package) + "."
        short = name.removeprefix(own)
        if short in self.functions and scope.find(name.partition(".")[0]) is None:
            count, known = self.functions[short], f"data.{short}"
        elif name in self._builtins:
            count, known = self._builtins[name], name
        else:
            raise self._refuse(name, line)
        if len(args) != count:
            raise RegoError(f"line {line}: `{name}` takes {count} arguments, got {len(args)}")
        return Call(known, args, line)


def _word(term: Term) -> str:
    return str(term.value) if isinstance(term, Const) else "[]"


def list_variables(thing: Term | Statement | Body, *, nested: bool = True) -> list[Var]:
    """Return the variables of a term or of statements; `nested`: those of comprehensions and of `every` as well."""
    found: list[Var] = []
    _collect(thing, nested, found)
    return found


def _collect(thing: Term | Statement | Body | None, nested: bool, found: list[Var]) -> None:
    parts: tuple[Term | Statement | Body | None, ...] = ()
    match thing:
        case Var(name):
            found += [thing] if name not in ROOTS else []
        case Ref(head, path):
            parts = (head, *path)
        case Call(_, args):
            parts = args
        case Items(_, items):
            parts = items
        case Members(pairs):
            parts = tuple(itertools.chain.from_iterable(pairs))
        case Comprehension(_, name, value, body):
            parts = (name, value, *body) if nested else ()
        case Statement(what, _, replaced):
            parts = (*_parts(what, nested), *(term for _, term in replaced))
        case tuple():
            parts = thing
    for item in parts:
        _collect(item, nested, found)


def _parts(what: Test | Bind | Some | SomeIn | Every | Not, nested: bool) -> tuple[Term | Statement | None, ...]:
    match what:
        case Test(term):
            return (term,)
        case Bind(pattern, value):
            return (pattern, value)
        case SomeIn(name, value, domain):
            return (name, value, domain)
        case Every(name, value, domain, body):
            return (domain, name, value, *body) if nested else (domain,)
        case Not(inner):
            return (inner,)
        case Some(names):
            return names

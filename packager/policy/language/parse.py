# SPDX-License-Identifier: Apache-2.0
"""Parse a program in Rego v1 into rules.

Grammar: openpolicyagent.org, "Policy Reference", without template strings, and `with` over functions and data.
"""

from __future__ import annotations

from packager.policy.language.scan import KEYWORDS, Word, split_words
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
from packager.policy.language.values import RegoError, parse_number

_OPERATORS = (
    {"==": "equal", "!=": "neq", "<": "lt", "<=": "lte", ">": "gt", ">=": "gte"},
    {"|": "or"},
    {"&": "and"},
    {"+": "plus", "-": "minus"},
    {"*": "mul", "/": "div", "%": "rem"},
)
_CONSTANTS = {"true": True, "false": False, "null": None}
_DEEPEST = 120


def parse(text: str) -> Module:
    """Read a program. Raises RegoError with the line."""
    return _Parser(split_words(text)).module()


class _Parser:
    def __init__(self, found: list[Word]) -> None:
        self._words, self._at, self._depth = found, 0, 0

    # words

    @property
    def _next(self) -> Word:
        return self._words[self._at]

    def _take(self) -> Word:
        word = self._next
        self._at += word.kind != "end"
        return word

    def _is(self, *texts: str) -> bool:
        word = self._next
        return word.text in texts and word.kind in ("sign", "name")

    def _skip(self, *texts: str) -> bool:
        found = self._is(*texts)
        self._at += found
        return found

    def _expect(self, text: str) -> Word:
        if not self._is(text):
            raise self._unexpected(f"expected `{text}`")
        return self._take()

    def _unexpected(self, expected: str) -> RegoError:
        return RegoError(f"line {self._next.line}: {expected}, got `{self._next.text:.40}`")

    def _name(self) -> Word:
        word = self._next
        if word.kind != "name" or word.text in KEYWORDS:
            raise self._unexpected("expected a name")
        return self._take()

    def _member(self) -> Const:
        if self._next.follows_space:
            raise self._unexpected("expected a name right behind `.`")
        return Const(self._name().text)

    # a file

    def module(self) -> Module:
        self._expect("package")
        package = [self._name().text]
        while self._skip("."):
            package.append(self._name().text)
        imports, rules = [], []
        while self._is("import"):
            imports += self._import()
        while self._next.kind != "end":
            if not self._next.starts_line:
                raise self._unexpected("expected a new line")
            rules.append(self._rule())
        return Module(tuple(package), tuple(imports), tuple(rules))

    def _import(self) -> list[tuple[str, tuple[str, ...]]]:
        line = self._take().line
        path = [self._name().text]
        while self._skip("."):
            path.append(self._take().text if self._next.text in KEYWORDS else self._name().text)
        if path[0] in ("rego", "future"):
            known = path == ["rego", "v1"] or (path[1:2] == ["keywords"] and len(path) <= 3 and not self._is("as"))
            if not known:
                raise RegoError(f"line {line}: `import {'.'.join(path)}` is not evaluated here")
            return []
        if path[0] not in ("input", "data"):
            raise RegoError(f"line {line}: expected an import of `input` or `data`, got `{path[0]}`")
        alias = self._name().text if self._skip("as") else path[-1]
        return [(alias, tuple(path))]

    # rules

    def _rule(self) -> Rule:
        line = self._next.line
        default = self._skip("default")
        path = self._head()
        args: tuple[Term, ...] = ()
        called = self._is("(") and not self._next.follows_space
        if called:
            self._take()
            args = self._terms(")")
        if default:
            if not self._skip(":=", "="):
                raise self._unexpected("expected `:=`")
            value = self._expression()
            return Rule(path, "default", args if called else (), value, (), (), line)
        if self._skip("contains"):
            value = self._expression()
            return Rule(path, "contains", (), value, self._optional_body(line), (), line)
        assigned = self._skip(":=", "=")
        value = self._expression() if assigned else Const(True)
        if not assigned and not self._is("if"):
            raise self._unexpected("expected `if`, `contains` or `:=` (the syntax before Rego v1 is refused)")
        body = self._optional_body(line)
        elses = []
        while self._skip("else"):
            other = self._expression() if self._skip(":=", "=") else Const(True)
            elses.append((other, self._optional_body(line)))
        return Rule(path, "function" if called else "value", args, value, body, tuple(elses), line)

    def _head(self) -> tuple[Term, ...]:
        path: list[Term] = [Const(self._name().text)]
        while True:
            if self._is(".") and not self._next.follows_space:
                self._take()
                path.append(self._member())
            elif self._is("[") and not self._next.follows_space:
                self._take()
                path.append(self._expression())
                self._expect("]")
            else:
                return tuple(path)

    def _optional_body(self, line: int) -> Body:
        if not self._skip("if"):
            return ()
        if self._skip("{"):
            return self._body("}")
        return (self._statement(),)

    def _body(self, end: str) -> Body:
        """Read statements up to a closing sign: one per line, or separated by `;`."""
        found: list[Statement] = []
        while not self._is(end):
            if found and not self._next.starts_line and self._words[self._at - 1].text != ";":
                raise self._unexpected(f"expected `;`, a new line or `{end}`")
            found.append(self._statement())
            if self._skip(";") and self._is(end, ";"):
                raise self._unexpected("expected a statement behind `;`")
        self._take()
        if not found:
            raise self._unexpected("expected a body with statements")
        return tuple(found)

    # statements

    def _statement(self) -> Statement:
        line = self._next.line
        with self._deeper():
            what = self._what(line)
        replaced = []
        while self._is("with"):
            self._take()
            path = [self._name().text]
            while self._skip("."):
                path.append(self._name().text)
            if path[0] != "input":
                raise RegoError(f"line {line}: `with {'.'.join(path)}` is not evaluated here, only `with input`")
            self._expect("as")
            replaced.append((tuple(path[1:]), self._expression()))
        return Statement(what, line, tuple(replaced))

    def _what(self, line: int) -> Test | Bind | Some | SomeIn | Every | Not:
        if self._skip("not"):
            inner = self._what(line)
            if not isinstance(inner, Test | Every | SomeIn):
                raise RegoError(f"line {line}: `not` before an assignment is not evaluated here")
            return Not(Statement(inner, line))
        if self._skip("some"):
            return self._some(line)
        if self._skip("every"):
            first = self._term()
            second = self._term() if self._skip(",") else None
            self._expect("in")
            domain = self._domain()
            self._expect("{")
            body = self._body("}")
            return Every(first, second, domain, body) if second else Every(None, first, domain, body)
        term = self._expression(pairs=True)
        if self._is(":=", "="):
            sign = self._take().text
            if sign == ":=" and not isinstance(term, Var | Items | Members):
                raise RegoError(f"line {line}: expected a name, an array or an object before `:=`")
            return Bind(term, self._expression(pairs=True), sign == ":=")
        return Test(term)

    def _domain(self) -> Term:
        if not self._next.follows_space:
            raise self._unexpected("expected a space behind `in`")
        return self._expression()

    def _some(self, line: int) -> Some | SomeIn:
        found = [self._term()]
        while self._skip(","):
            found.append(self._term())
        if self._skip("in"):
            if len(found) > 2:
                raise RegoError(f"line {line}: expected one or two terms before `in`")
            domain = self._domain()
            return SomeIn(found[0], found[1], domain) if len(found) == 2 else SomeIn(None, found[0], domain)
        names = tuple(item for item in found if isinstance(item, Var))
        if len(names) != len(found):
            raise RegoError(f"line {line}: expected names behind `some`")
        return Some(names)

    # expressions

    def _deeper(self) -> _Depth:
        return _Depth(self)

    def _expression(self, first: Term | None = None, *, pairs: bool = False) -> Term:
        """Read an expression whose term `first` is read already; `pairs`: `k, v in x` is one expression."""
        with self._deeper():
            line = self._next.line
            term = self._operation(0, first)
            if pairs and self._is(",") and first is None:
                mark = self._at
                self._take()
                second = self._operation(0, None)
                if not self._skip("in"):
                    self._at = mark
                    return term
                return Call("internal.member_3", (term, second, self._operation(0, None)), line)
            while self._is("in"):
                self._take()
                term = Call("internal.member_2", (term, self._operation(0, None)), line)
            return term

    def _operation(self, level: int, first: Term | None) -> Term:
        if level == len(_OPERATORS):
            return self._term() if first is None else first
        term = self._operation(level + 1, first)
        while self._next.kind == "sign" and self._next.text in _OPERATORS[level]:
            word = self._take()
            term = Call(_OPERATORS[level][word.text], (term, self._operation(level + 1, None)), word.line)
        return term

    def _terms(self, end: str, first: Term | None = None) -> tuple[Term, ...]:
        """Read comma-separated expressions up to a closing sign; a trailing comma is allowed."""
        found = [] if first is None else [self._expression(first)]
        while not self._skip(end):
            if found and not self._skip(","):
                raise self._unexpected(f"expected `,` or `{end}`")
            if found and self._skip(end):
                break
            found.append(self._expression())
        return tuple(found)

    def _term(self) -> Term:
        with self._deeper():
            return self._suffixes(self._simple())

    def _suffixes(self, head: Term) -> Term:
        """Read what follows a term: `.name`, `[term]`, `(arguments)`."""
        path: list[Term] = []
        line = self._next.line
        while not self._next.follows_space and self._is(".", "[", "("):
            if isinstance(head, Const) or (isinstance(head, Items | Members | Comprehension) and self._is("(")):
                break
            word = self._take()
            if word.text == ".":
                path.append(self._member())
            elif word.text == "[":
                path.append(self._expression())
                self._expect("]")
            else:
                name = self._function(head, path, line)
                head, path = Call(name, self._terms(")"), line), []
        return Ref(head, tuple(path), line) if path else head

    def _function(self, head: Term, path: list[Term], line: int) -> str:
        if not isinstance(head, Var) or not all(
            isinstance(item, Const) and isinstance(item.value, str) for item in path
        ):
            raise RegoError(f"line {line}: expected the name of a function before `(`")
        return ".".join([head.name, *(str(item.value) for item in path if isinstance(item, Const))])

    def _simple(self) -> Term:
        word = self._take()
        if word.kind == "text":
            return Const(word.text)
        if word.kind == "number":
            return self._number(word, word.text)
        found = self._named(word) if word.kind == "name" else self._enclosed(word) if word.kind == "sign" else None
        if found is None:
            self._at -= word.kind != "end"
            raise self._unexpected("expected a term")
        return found

    def _named(self, word: Word) -> Term | None:
        if word.text in _CONSTANTS:
            return Const(_CONSTANTS[word.text])
        if word.text == "set" and self._is("(") and not self._next.follows_space:
            self._take()
            self._expect(")")
            return Items("set", ())
        if word.text not in KEYWORDS or (word.text == "contains" and self._is("(")):
            return Var(word.text, word.line)
        return None

    def _enclosed(self, word: Word) -> Term | None:
        if word.text == "-" and self._next.kind == "number":
            return self._number(word, f"-{self._take().text}")
        if word.text == "(":
            term = self._expression(pairs=True)
            self._expect(")")
            return term
        if word.text == "[":
            return self._array(word.line)
        return self._braces(word.line) if word.text == "{" else None

    def _number(self, word: Word, text: str) -> Const:
        try:
            return Const(parse_number(text))
        except ValueError as error:
            raise RegoError(f"line {word.line}: {error}") from None

    def _array(self, line: int) -> Term:
        if self._skip("]"):
            return Items("array", ())
        first = self._term()
        if self._skip("|"):
            return Comprehension("array", None, first, self._body("]"), line)
        return Items("array", self._terms("]", first))

    def _braces(self, line: int) -> Term:
        if self._skip("}"):
            return Members(())
        first = self._term()
        if self._skip("|"):
            return Comprehension("set", None, first, self._body("}"), line)
        name = self._expression(first)
        if not self._skip(":"):
            return Items("set", self._terms("}", name))
        value = self._term()
        if self._skip("|"):
            return Comprehension("object", name, value, self._body("}"), line)
        pairs = [(name, self._expression(value))]
        while not self._skip("}"):
            if not self._skip(","):
                raise self._unexpected("expected `,` or `}`")
            if self._skip("}"):
                break
            name = self._expression()
            self._expect(":")
            pairs.append((name, self._expression()))
        return Members(tuple(pairs))


class _Depth:
    """One level of nesting, for a block. Entering raises RegoError below the deepest level."""

    def __init__(self, parser: _Parser) -> None:
        self._parser = parser

    def __enter__(self) -> None:
        self._parser._depth += 1
        if self._parser._depth > _DEEPEST:
            raise RegoError(f"line {self._parser._next.line}: the program is nested too deeply")

    def __exit__(self, *_: object) -> None:
        self._parser._depth -= 1

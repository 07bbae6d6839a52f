# SPDX-License-Identifier: Apache-2.0
"""A rule's `VERSION` identifies its code in every policy digest: code that changed without it is found here.

`tests/policies/versions.json` has the version of every shipped rule and the digest of its code; documentation, comments
and blank lines do not count. Write it again with `python -m tests.unit.policy.test_rule_versions`.
"""

from __future__ import annotations

import ast
import inspect
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from packager import canonical, plugins
from packager.errors import UsageError
from packager.policy import engine
from packager.policy.engine import Profile, RuleSettings

TABLE = Path(__file__).parents[2] / "policies" / "versions.json"
RULES = plugins.list_names("policies")
REMEDY = (
    "the code of rule `{0}` changed: if it may now judge the same facts differently (also by its defaults or the facts "
    "it reads), raise `VERSION` in policies/{1}.py; then run `python -m tests.unit.policy.test_rule_versions`"
)


def code(source: str) -> str:
    """Return the lines of a module that are neither documentation nor comments."""
    dropped: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            dropped |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = (line.rstrip() for number, line in enumerate(source.splitlines(), start=1) if number not in dropped)
    return "\n".join(line for line in lines if line and not line.lstrip().startswith("#"))


def identity(rule: str) -> dict[str, Any]:
    """Return the row of a rule: its version, and the digest of its code and of what it shares with other rules."""
    module = plugins.load("policies", rule)
    shared = [item for item in vars(module).values() if inspect.ismodule(item) and "policies._" in item.__name__]
    text = "\n".join(code(Path(str(item.__file__)).read_text()) for item in (module, *shared))
    return {"version": module.VERSION, "code": canonical.sha256(text.encode())}


@pytest.mark.parametrize("rule", RULES)
def test_code_changes_only_with_its_version(rule: str) -> None:
    row = json.loads(TABLE.read_text()).get(rule)
    assert identity(rule) == row, REMEDY.format(rule, rule.replace("-", "_"))


def test_the_table_lists_every_rule_and_no_other() -> None:
    assert list(json.loads(TABLE.read_text())) == sorted(RULES)


def test_code_excludes_documentation_and_comments() -> None:
    worded = '"""Doc."""\n# comment\nA = 1  # kept\n\n\ndef f():\n    """Doc.\n\n    More.\n    """\n    return "# x"\n'
    assert code(worded) == 'A = 1  # kept\ndef f():\n    return "# x"'


def rule_module(tmp_path: Path, text: str) -> ModuleType:
    module = ModuleType("third_party")
    module.__file__ = str(tmp_path / "third_party.py")
    Path(module.__file__).write_text(text)
    exec(text, module.__dict__)
    return module


def test_digest_follows_the_version_of_a_rule_not_its_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def digest(text: str, settings: RuleSettings | None = None) -> str:
        module = rule_module(tmp_path, text)
        monkeypatch.setattr(engine, "_module", lambda rule: module)
        engine._version.cache_clear()
        found = Profile("p", ("mine",), settings={"mine": settings} if settings else {}).digest
        engine._version.cache_clear()
        return found

    body = 'FACTS = ("contents",)\nDEFAULTS = {"least": 1}\ndef check(facts, least): yield from ()\n'
    first = digest(f"VERSION = 1\n{body}")
    assert digest(f'"""Other words."""\nVERSION = 1\n{body}') == first
    assert digest(f"VERSION = 2\n{body}") != first
    assert digest(f"VERSION = 1\n{body.replace('1}', '2}')}") != first, "a default is a parameter"
    assert digest(f"VERSION = 1\n{body}", RuleSettings({"least": 1})) == first, (
        "stated or not, the parameter is the same"
    )
    unversioned = digest(body)
    assert digest(f"# a comment\n{body}") != unversioned, "without a version the source is the identity"


def test_a_rule_without_version_and_source_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = rule_module(tmp_path, "FACTS = ()\n")
    Path(str(module.__file__)).unlink()
    monkeypatch.setattr(engine, "_module", lambda rule: module)
    engine._version.cache_clear()
    with pytest.raises(UsageError, match="states no `VERSION`"):
        _ = Profile("p", ("mine",)).digest
    engine._version.cache_clear()


def test_digest_ignores_the_descriptions_of_facts() -> None:
    schema = {"description": "words", "properties": {"description": {"type": "string", "description": "words"}}}
    assert engine.schema._without_descriptions(schema) == {"properties": {"description": {"type": "string"}}}


if __name__ == "__main__":
    TABLE.write_text(json.dumps({rule: identity(rule) for rule in sorted(RULES)}, indent=2) + "\n")

# SPDX-License-Identifier: Apache-2.0
"""Write the reference pages that follow from the code: `python docs/site/reference.py`, or `make reference`.

`tests/test_reference.py` holds the pages to what this writes. Pages that are partly prose end with a generated chapter.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import sys
import textwrap
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from packager import api, cli, errors, runtime
from packager.cli import _parser, _verbs, options
from packager.knobs import catalogue
from packager.policy import docs as policy_docs
from packager.release_plan import ci

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
WRITTEN = "Written by `make reference`; change the code, not this page."
SCHEMA = ROOT / "packager" / "recipe" / "recipe.schema.json"
CONTRACT = {
    "interface": {
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 8]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch"]}],
        "dimensions": {"batch": {"min": 1, "max": 64}},
    },
    "targets": {
        name: {"runtime": name, "device": "cpu", "precision": "fp32", "needs": {"memory": {"weights": 0}}}
        for name in ("onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "triton")
    },
}
"""A contract that has every knob; `OF_CONTRACT` are the defaults and bounds that follow from it."""
EXAMPLE = """name: digits
version: 1.4.0
source: models:/digits@champion
runs-on:
  onnxruntime: {versions: ">=1.17", precision: [fp32, int8], devices: [cpu, cuda]}
  openvino: ">=2024.6"
slo: {p99_ms: 50, at_rps: 20}
vendor: [linux_x86_64-cp311]
"""
HUGE = 10**6  # bounds beyond this only keep a number readable by every JSON parser
OF_CONTRACT = {"batch.max", "batch.rows", "deploy.memory"}


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Return a Markdown table."""
    names = list(head)
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (names, ["---"] * len(names), *cells)] + [""]


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def prose(text: str) -> str:
    """Wrap a paragraph."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


# the command line


def cli_page() -> str:
    """Return the page of all verbs."""
    verbs = {name: _verbs.load_verb(name) for name in _verbs.list_verbs()}
    rows = [
        "# Command line",
        "",
        f"{WRITTEN} `packager help VERB` prints the same.",
        "",
        "Exit codes: [exit-codes.md](exit-codes.md). JSON documents of `--json`: `packager schema output VERB`.",
        "",
    ]
    for group, title in _verbs.GROUPS.items():
        found = [name for name, module in verbs.items() if _verbs.group_of(module) == group]
        rows += [f"**{title[0].upper()}{title[1:]}**", ""]
        rows += table(("verb", "does"), ((f"[`{name}`](#packager-{name})", verbs[name].HELP) for name in found))
    common = argparse.ArgumentParser(add_help=False)
    options.add_common(common)
    rows += ["**Options of every verb**", "", *arguments(common, set())]
    known = {action.dest for action in common._actions} | {"help"}
    for name, module in verbs.items():
        parser = parser_of(name)
        rows += [f"## packager {name}", "", f"**{module.HELP[0].upper()}{module.HELP[1:]}.**", ""]
        rows += [inspect.cleandoc(module.__doc__ or ""), ""]
        rows += ["```", usage(name, parser, known), "```", "", *arguments(parser, known)]
        rows += ["```sh", *(line.removeprefix("  ") for line in module.EXAMPLES.splitlines()), "```", ""]
    return "\n".join(rows)


def parser_of(name: str) -> argparse.ArgumentParser:
    (commands,) = (
        action for action in _parser.build_parser([name])._actions if isinstance(action, argparse._SubParsersAction)
    )
    return commands.choices[name]


def usage(name: str, parser: argparse.ArgumentParser, known: set[str]) -> str:
    """Return one line: required options, then positional arguments."""
    shown = [action for action in parser._actions if action.dest not in known]
    required = [option(action) for action in shown if action.option_strings and action.required]
    places = [place(action) for action in shown if not action.option_strings]
    optional = any(action.option_strings and not action.required for action in shown)
    return " ".join(["packager", name, *required, *places, *(["[options]"] if optional else [])])


def place(action: argparse.Action) -> str:
    name = metavar(action)
    return {"?": f"[{name}]", "*": f"[{name} …]", "+": f"{name} [{name} …]"}.get(str(action.nargs), name)


def metavar(action: argparse.Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    if action.metavar:
        return " ".join(action.metavar)
    return "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()


def option(action: argparse.Action) -> str:
    takes = "" if action.nargs == 0 else f" {metavar(action)}"
    return f"{', '.join(action.option_strings)}{takes}"


def arguments(parser: argparse.ArgumentParser, known: set[str]) -> list[str]:
    """Return a table of the arguments and options of a parser."""
    formatter = parser._get_formatter()
    rows = []
    for action in parser._actions:
        if action.dest in known or action.help == argparse.SUPPRESS:
            continue
        name = option(action) if action.option_strings else place(action)
        rows.append((code(name), formatter._expand_help(action) if action.help else ""))
    return table(("argument", "meaning"), rows) if rows else []


# exit codes


def exit_codes_page() -> str:
    """Return the page of exit codes, from the types of errors."""
    rows = [
        "# Exit codes",
        "",
        WRITTEN,
        "",
        "Scripts may rely on these; `--json` gives the error's type in `refusal`.",
        "",
    ]
    by_code: dict[int, list[type[errors.PackagerError]]] = {}
    for kind in subclasses(errors.PackagerError):
        by_code.setdefault(kind.code, []).append(kind)
    meanings = {
        0: "yes, done",
        1: "the answer is no: policy, parity, verification, conformance",
        2: "the call, the recipe or the lock is wrong; nothing was started",
        3: "a source, registry or network did not deliver",
        4: "a step failed, or the disk is full",
        5: "integrity: bytes, names, modes or a signature are not what was promised",
        errors.UNKNOWN: "unknown: not measured (`compat`, `doctor`); never an implied yes",
        errors.PackagerError.code: "a bug in packager",
        cli.INTERRUPTED: "interrupted (Ctrl-C, SIGTERM); nothing half-written is left",
        cli.CUT_OFF: "the reader of the output is gone (a broken pipe)",
    }
    missing = set(by_code) - set(meanings)
    assert not missing, missing
    rows += table(("code", "means"), ((str(number), text) for number, text in sorted(meanings.items())))
    for number in sorted(set(by_code) - {errors.PackagerError.code}):
        rows += [f"## {number}: {meanings[number].split(':')[0].split(';')[0]}", ""]
        kinds = ((code(kind.__name__), first_line(kind)) for kind in by_code[number])
        rows += table(("type", "when"), kinds)
    return "\n".join(rows)


def first_line(kind: type) -> str:
    return inspect.cleandoc(kind.__doc__ or "").splitlines()[0]


def subclasses(kind: type[errors.PackagerError]) -> Iterator[type[errors.PackagerError]]:
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from subclasses(child)


# the recipe


def recipe_page() -> str:
    """Return the page of the keys of `bundle.yaml`, from its JSON Schema."""
    schema = json.loads(SCHEMA.read_bytes())
    required = schema["required"]
    rows = ["# Recipe: the keys of `bundle.yaml`", "", WRITTEN, ""]
    rows += [prose(schema["description"]), ""]
    rows += ["```yaml", *EXAMPLE.splitlines(), "```", ""]
    rows += ["`packager schema` prints the JSON Schema for editors; `packager init SOURCE` drafts a recipe.", ""]
    rows += table(
        ("key", "value", "default"),
        (
            (f"[`{name}`](#{name})", shape(one, schema), "required" if name in required else default(one))
            for name, one in schema["properties"].items()
        ),
    )
    for name, one in schema["properties"].items():
        rows += [f"## {name}", "", prose(one["description"]), "", *key(one, schema)]
    defined = {name: one for name, one in schema["$defs"].items() if "properties" in one}
    for name, one in defined.items():
        rows += [f"## The mapping {code(name)}", "", *key(one, schema)]
    return "\n".join(rows).replace("\n\n\n", "\n\n")


def key(one: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    """Return the lines about one key: its shape, default, members and examples."""
    rows = [f"Value: {shape(one, schema)}."] if shape(one, schema) != "mapping" else []
    if "default" in one:
        rows.append(f"Default: `{json.dumps(one['default'], ensure_ascii=False)}`.")
    rows = [" ".join(rows), ""] if rows else []
    inner = one if "properties" in one else one.get("items", {})
    if "properties" in inner:
        rows += table(
            ("member", "value", "meaning"),
            (
                (code(name), shape(member, schema), meaning(member, name in inner.get("required", ())))
                for name, member in inner["properties"].items()
            ),
        )
    if "examples" in one:
        listed = ", ".join(code(json.dumps(example, ensure_ascii=False)) for example in one["examples"])
        rows += [f"Examples: {listed}", ""]
    return rows


def meaning(member: dict[str, Any], required: bool) -> str:
    text = member.get("description", "")
    extra = ["Required."] if required else [f"Default: {default(member)}."] if "default" in member else []
    return " ".join([text, *extra]).strip()


def default(one: dict[str, Any]) -> str:
    return code(json.dumps(one["default"], ensure_ascii=False)) if "default" in one else "–"


def shape(one: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return what a value looks like, in words."""
    if "$ref" in one:
        name = one["$ref"].rpartition("/")[2]
        target = schema["$defs"][name]
        return f"[`{name}`](#the-mapping-{name})" if "properties" in target else shape(target, schema)
    if "enum" in one:
        return ", ".join(code(str(value)) for value in one["enum"])
    several = one.get("oneOf", one.get("anyOf")) if "type" not in one else None
    if several:
        return " or ".join(dict.fromkeys(shape(member, schema) for member in several))
    kind = one.get("type", "value")
    if isinstance(kind, list):
        return " or ".join(shape({"type": name}, schema) for name in kind)
    if kind in ("integer", "number"):
        return number(one)
    of = shape(one["items"], schema) if "items" in one else ""
    more = one.get("additionalProperties")
    if kind == "object" and isinstance(more, dict):
        return f"mapping of name to {shape(more, schema)}"
    listed = f"list of ({of})" if " or " in of else f"list of {of or 'values'}"
    return {"array": listed, "object": "mapping", "string": "text", "boolean": "`true`, `false`"}.get(kind, "value")


def number(one: dict[str, Any]) -> str:
    """Return a number with its bounds, where they say more than the width of an integer."""
    words = "whole number" if one["type"] == "integer" else "number"
    low, high = one.get("minimum"), one.get("maximum")
    bounds = [f"from {low:g}"] if low is not None and abs(low) < HUGE else []
    bounds += [f"to {high:g}"] if high is not None and high < HUGE else []
    return f"{words} {' '.join(bounds)}".strip()


# the Python API


SUBJECTS = (
    "recipes",
    "bundles",
    "signing",
    "trust",
    "policies",
    "runtimes",
    "deploy",
    "conformance",
    "releases",
    "performance",
    "passports",
)
"""The modules of `packager.api`, in the order in which a bundle meets them."""


def api_page() -> str:
    """Return the page of `packager.api` and its modules: what each `__all__` names, functions first."""
    rows = ["# Python API", "", WRITTEN, "", inspect.cleandoc(api.__doc__ or ""), "", *names_of(api)]
    for subject in SUBJECTS:
        module = importlib.import_module(f"packager.api.{subject}")
        rows += [f"## packager.api.{subject}", "", inspect.cleandoc(module.__doc__ or ""), "", *names_of(module)]
    return "\n".join(rows)


def names_of(module: ModuleType) -> list[str]:
    """Return the tables and sections of a module's names; types in tables of their own."""
    named = [(name, getattr(module, name)) for name in module.__all__]
    functions = [(name, one) for name, one in named if inspect.isfunction(one)]
    types = [(name, one) for name, one in named if inspect.isclass(one)]
    aliases = [(name, one) for name, one in named if typing.get_origin(one)]
    rows = table(("function", "does"), ((f"[`{name}`](#{name.lower()})", summary(one)) for name, one in functions))
    rows += table(("type", "is"), ((f"[`{name}`](#{name.lower()})", summary(one)) for name, one in types))
    rows += table(("alias", "of"), ((code(name), code(alias(one))) for name, one in aliases)) if aliases else []
    for name, one in functions:
        rows += [f"### {name}", "", "```python", *signature(name, one), "```", ""]
        rows += [inspect.cleandoc(one.__doc__ or ""), ""]
    for name, one in types:
        rows += [f"### {name}", "", inspect.cleandoc(one.__doc__ or ""), ""]
        fields = [(code(field), code(str(kind))) for field, kind in own_fields(one).items()]
        rows += table(("field", "type"), fields) if fields else []
        rows += members(one)
    return rows


def alias(one: Any) -> str:
    """Return what an alias stands for, as it is written."""
    if typing.get_origin(one) is typing.Literal:
        return f"Literal[{', '.join(map(repr, typing.get_args(one)))}]"
    return " | ".join(kind.__name__ for kind in typing.get_args(one))


def summary(one: Any) -> str:
    """Return the first paragraph of a docstring."""
    return " ".join(inspect.cleandoc(one.__doc__ or "").split("\n\n")[0].split())


def own_fields(kind: type) -> dict[str, Any]:
    return {name: text for name, text in inspect.get_annotations(kind).items() if not name.startswith("_")}


def members(kind: type) -> list[str]:
    """Return a table of public properties and methods that a class defines itself."""
    rows = []
    for name, one in vars(kind).items():
        bare = one.__func__ if isinstance(one, classmethod | staticmethod) else getattr(one, "fget", one)
        if name.startswith("_") or not inspect.isfunction(bare) or name in own_fields(kind):
            continue
        shown = name if isinstance(one, property) else " ".join(line.strip() for line in signature(name, bare))
        shown = shown.removeprefix("def ").replace("( ", "(").replace(", )", ")")
        rows.append((code(shown), summary(bare) or "Return the record as JSON." * (name == "to_json")))
    return table(("member", "does"), rows) if rows else []


def signature(name: str, one: Any) -> list[str]:
    """Return the lines of a definition, one argument each where one line is too long."""
    found = inspect.signature(one)
    shown = [one for one in found.parameters.values() if one.name not in ("self", "cls")]
    given = [argument(one) for one in shown]
    keywords = [index for index, one in enumerate(shown) if one.kind is inspect.Parameter.KEYWORD_ONLY]
    if keywords:
        given.insert(keywords[0], "*")
    end = f") -> {found.return_annotation}"
    line = f"def {name}({', '.join(given)}{end}"
    return [line] if len(line) <= 100 else [f"def {name}(", *(f"    {argument}," for argument in given), end]


def argument(one: inspect.Parameter) -> str:
    """Return an argument as it is written; functions as defaults by their name."""
    default = getattr(one.default, "__name__", None) or repr(one.default)
    return f"{one.name}: {one.annotation}" + ("" if one.default is one.empty else f" = {default}")


# knobs


def knobs_chapter() -> str:
    """Return the last chapter of the page on knobs: all of them."""
    rows = [
        "## All knobs",
        "",
        "This chapter is written by `make reference`, from the declarations. A bundle has those of its runtimes.",
        "",
    ]
    groups: dict[str, list[Any]] = {}
    for knob in catalogue.knobs_for(CONTRACT):
        groups.setdefault(knob.name.split(".")[0], []).append(knob)
    for group, knobs in groups.items():
        rows += [f"### {group}", ""]
        rows += table(
            ("knob", "default", "allowed", "takes", "meaning"),
            ((code(knob.name), knob_default(knob), allowed(knob), knob.needs, about(knob)) for knob in knobs),
        )
    return "\n".join(rows)


def about(knob: Any) -> str:
    return knob.about.replace(" The contract promises 64.", "").replace("(`batch`) ", "")


def knob_default(knob: Any) -> str:
    if knob.name in OF_CONTRACT:
        return "from the contract"
    return "unset" if knob.default is None else code(json.dumps(knob.default))


def allowed(knob: Any) -> str:
    return "up to the contract's limit" if knob.name in OF_CONTRACT - {"deploy.memory"} else knob.expected()


PAGES = {
    "reference/api.md": api_page,
    "reference/cli.md": cli_page,
    "reference/exit-codes.md": exit_codes_page,
    "reference/recipe.md": recipe_page,
}


def runtime_chapter() -> str:
    rows = [
        "## Members",
        "",
        "This chapter is written by `make reference`, from the records in `packager/runtime.py`.",
        "",
    ]
    for title, record in (("`__init__.py`", runtime.Runtime), ("`conform.py`", runtime.Conformance)):
        rows += [f"### {title}", ""]
        rows += table(
            ("member", "what it is", "default"),
            ((code(item.name), item.about, item.default or "required") for item in runtime.list_members(record)),
        )
    return "\n".join(rows)


CHAPTERS = {
    "reference/knobs.md": knobs_chapter,
    "reference/policies.md": policy_docs.render_chapter,
    "how-to/add-a-runtime.md": runtime_chapter,
}


def expected(page: str) -> str:
    """Return what a page must hold: the whole of it, or what stands before its generated chapter and the chapter."""
    if page in PAGES:
        return PAGES[page]().rstrip() + "\n"
    chapter = CHAPTERS[page]().rstrip() + "\n"
    before, _, _ = (DOCS / page).read_text("utf-8").partition(chapter.splitlines()[0] + "\n")
    return f"{before.rstrip()}\n\n{chapter}"


def main() -> int:
    for page in (*PAGES, *CHAPTERS):
        (DOCS / page).write_text(expected(page), "utf-8")
        print(f"wrote docs/{page}")
    (ROOT / ci.ACTION).write_text(ci.render_action(), "utf-8")
    print(f"wrote {ci.ACTION}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

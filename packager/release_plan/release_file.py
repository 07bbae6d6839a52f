# SPDX-License-Identifier: Apache-2.0
"""The release file: which recipes are released together, and what is done with each. Written by people.

    recipes: [models/*/bundle.yaml]
    defaults:
      lock: check
      policy: release
      conform: {runtimes: ["onnxruntime==1.31.1"], level: L3}
      sign: key:release.pem
      push: oci://registry.example.com/models/{name}:{version}
      promote: {stage: staging, profile: release, trust: acme.trust, sign: key:gate.pem}
    models:
      digits: {conform: none, after: [tokenizer]}

Only `recipes` is needed: it locks and builds. A setting of a model stands for the whole setting of the defaults; `none`
leaves a task out. Paths are relative to the file. `release.schema.json` says the same to editors.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode

from packager import strictyaml
from packager.build.project import load_recipe
from packager.canonical import JSON
from packager.cluster.messages import Needs
from packager.errors import PackagerError, UsageError, did_you_mean
from packager.recipe.fields import read_memory
from packager.strictyaml import Node, Scalar

NONE = "none"
OVER = "--set"
SETTINGS = ("lock", "build", "vendor", "policy", "conform", "sign", "push", "promote", "resources")
MOST_MODELS = 20_000
MOST_UNITS = 999  # processors or GPUs of a node
_RECIPE = "bundle.yaml"
_LEVEL = r"L[0-5]"
_STAGE = r"[a-z0-9]+(_[a-z0-9]+)*"
_PLATFORM = r"[A-Za-z0-9_.-]+"
_URI = r"[a-z][a-z0-9+.-]*:\S*"
_PUSH = r"[a-z][a-z0-9+.-]*://\S+"
_LINE = r"[^\n]+"
_ACCELERATOR = r"[A-Za-z0-9_.-]{1,64}"
_ANYTHING = Needs()
Value = TypeVar("Value")
_PLACEHOLDERS = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Conform:
    """Which cells of the conformance suite run: selections as `--runtime` takes them, and the last level.

    No selection means every promised runtime at the ends of its range. `strict`: a skipped cell is a failure.
    """

    runtimes: tuple[str, ...] = ()
    level: int = 5
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Promote:
    """A gate: the stage, the profile that judges, the trust file whose statements count, the URI of who signs."""

    stage: str
    profile: str
    trust: str
    sign: str


@dataclass(frozen=True, slots=True)
class Settings:
    """What is done with one model. None leaves a task out; `lock` is `renew` or `check`.

    `push` is an address with `{name}` and `{version}` in it. Paths are absolute. `resources` are what a node of a
    cluster must have for the model's steps; they change no result.
    """

    lock: str | None = "renew"
    build: bool = True
    vendor: tuple[str, ...] = ()
    policy: str | None = None
    conform: Conform | None = None
    sign: str | None = None
    push: str | None = None
    promote: Promote | None = None
    resources: Needs = _ANYTHING

    def to_json(self) -> JSON:
        return asdict(self)

    @staticmethod
    def from_json(value: JSON) -> Settings:
        """Return what `to_json` wrote."""
        conform, promote = value["conform"], value["promote"]
        return Settings(
            **{
                **value,
                "vendor": tuple(value["vendor"]),
                "conform": conform and Conform(**{**conform, "runtimes": tuple(conform["runtimes"])}),
                "promote": promote and Promote(**promote),
                "resources": Needs.from_json(value["resources"]),
            }
        )


@dataclass(frozen=True, slots=True)
class Model:
    """One recipe of a release, what is done with it, and the models that must be released before it.

    `name` and `version` are the recipe's; a recipe that cannot be read is called by its path and has the `problem`.
    """

    name: str
    version: str
    recipe: str
    settings: Settings = Settings()
    after: tuple[str, ...] = ()
    problem: Mapping[str, JSON] | None = None

    def to_json(self) -> JSON:
        return {
            "name": self.name,
            "version": self.version,
            "recipe": self.recipe,
            "settings": self.settings.to_json(),
            "after": list(self.after),
        }

    @staticmethod
    def from_json(value: JSON) -> Model:
        """Return what `to_json` wrote."""
        return Model(
            value["name"],
            value["version"],
            value["recipe"],
            Settings.from_json(value["settings"]),
            tuple(value["after"]),
        )


@dataclass(frozen=True, slots=True)
class ReleaseFile:
    """A parsed release file: its models, sorted by name."""

    path: Path
    models: tuple[Model, ...]


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the file says about one model by name."""

    where: strictyaml.Where
    settings: Mapping[str, Node]
    after: tuple[tuple[str, strictyaml.Where], ...]


def build_schema() -> bytes:
    """Return the JSON Schema of release files."""
    return resources.files("packager.release_plan").joinpath("release.schema.json").read_bytes()


def load(path: Path, over: Iterable[str] = ()) -> ReleaseFile:
    """Read the release file at `path` and the names in its recipes.

    `over` are settings `KEY=VALUE` that stand for those of every model; their paths are relative to the working
    directory. Raises UsageError with the line: for what is unknown or twice, recipes that are not there, two models of
    one name, models that wait for each other, two models that are pushed to one address.
    """
    data = strictyaml.load(path, missing="it names the recipes: `recipes: [models/*/bundle.yaml]`")
    base, file = path.absolute().parent, str(path)
    known = ("recipes", "defaults", "models")
    members = strictyaml.read_fields(strictyaml.parse(data, file), "release", known, required=("recipes",))
    defaults = strictyaml.read_fields(members["defaults"], "defaults", SETTINGS) if "defaults" in members else {}
    common = _settings(Settings(), defaults, "defaults", base)
    entries = _entries(members["models"]) if "models" in members else {}
    found = _named(_recipes(members["recipes"], base, path.absolute()), base)
    for name, entry in entries.items():
        if name not in found and not any(model.problem for model in found.values()):
            raise entry.where.error(f"no recipe is called `{name:.80}`", hint=did_you_mean(name, found))
    models = {name: _applied(model, common, entries.get(name), base) for name, model in found.items()}
    members = _over(over)
    for name, model in models.items() if members else ():
        models[name] = replace(model, settings=_settings(model.settings, members, OVER, Path().absolute()))
    _check_order(models, entries)
    _check_addresses(models.values(), file)
    return ReleaseFile(path, tuple(models[name] for name in sorted(models)))


def _over(given: Iterable[str]) -> dict[str, Node]:
    """Return the settings that were given as `KEY=VALUE`, the value written as in the file."""
    found: dict[str, Node] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or key not in SETTINGS or not value.strip():
            hint = did_you_mean(key, SETTINGS) if equals else "for example `policy=dev`, or `push=none`"
            raise UsageError(f"{OVER}: expected `KEY=VALUE` with a setting of models, got `{text:.80}`", hint=hint)
        if key in found:
            raise UsageError(f"{OVER}: `{key}` is given twice", hint="keep one of them")
        found[key] = strictyaml.parse(value, OVER)
    return found


def _entries(node: Node) -> dict[str, _Entry]:
    found = {}
    for key, member in strictyaml.read_table(node, "models").entries:
        what = f"models.{key.text:.80}"
        members = strictyaml.read_fields(member, what, (*SETTINGS, "after"))
        after = (
            strictyaml.read_items(members.pop("after"), f"{what}.after", most=MOST_MODELS) if "after" in members else ()
        )
        waits = tuple((strictyaml.read_text(item, f"{what}.after", pattern=_LINE), item.where) for item in after)
        found[key.text] = _Entry(key.where, members, waits)
    return found


def _recipes(node: Node, base: Path, own: Path) -> dict[Path, None]:
    """Return the paths that the patterns name, each once, in their order; the release file, `own`, is no recipe."""
    found: dict[Path, None] = {}
    for item in strictyaml.read_items(node, "recipes", least=1):
        pattern = strictyaml.read_text(item, "recipes", pattern=_LINE, expect="a path or a pattern such as `models/*`")
        matched = [Path(name) for name in sorted(glob.glob(str(base / pattern), recursive=True))]  # noqa: PTH207 - may be absolute
        recipes = [path / _RECIPE if path.is_dir() else path for path in matched]
        there = [path for path in recipes if path.is_file() and path.suffix in (".yaml", ".yml") and path != own]
        if not there:
            raise item.where.error(f"`recipes`: `{pattern:.120}` names no file", hint=f"paths start at `{base}`")
        found |= dict.fromkeys(path.resolve() for path in there)
    if len(found) > MOST_MODELS:
        raise node.where.error(f"`recipes`: expected at most {MOST_MODELS} recipes, got {len(found)}")
    return found


def _named(paths: Mapping[Path, None], base: Path) -> dict[str, Model]:
    """Return the models by name. Raises UsageError for two of one name."""
    found: dict[str, Model] = {}
    for path in paths:
        model = _read(path, base)
        if model.name in found:
            raise UsageError(
                f"two recipes are called `{model.name}`: `{found[model.name].recipe}` and `{path}`",
                hint="one release holds one model of a name; release the versions one after the other",
            )
        found[model.name] = model
    return found


def _read(path: Path, base: Path) -> Model:
    try:
        recipe = load_recipe(path)
    except PackagerError as error:
        shown = str(path.relative_to(base) if path.is_relative_to(base) else path)
        return Model(shown, "", str(path), problem={"code": error.code, "message": error.message, "hint": error.hint})
    return Model(recipe.name, recipe.version, str(path))


def _applied(model: Model, common: Settings, entry: _Entry | None, base: Path) -> Model:
    if entry is None:
        return replace(model, settings=common)
    settings = _settings(common, entry.settings, f"models.{model.name}", base)
    return replace(model, settings=settings, after=tuple(dict.fromkeys(name for name, _ in entry.after)))


def _settings(before: Settings, members: Mapping[str, Node], what: str, base: Path) -> Settings:
    read: Mapping[str, Callable[[Node], Any]] = {
        "lock": lambda node: _word(node, f"{what}.lock", ("renew", "check")),
        "build": lambda node: _word(node, f"{what}.build", ("run",)) is not None,
        "vendor": lambda node: _vendor(node, f"{what}.vendor"),
        "policy": lambda node: _optional(node, lambda: _profile(node, f"{what}.policy", base)),
        "conform": lambda node: _optional(node, lambda: _conform(node, f"{what}.conform")),
        "sign": lambda node: _optional(node, lambda: _signer(node, f"{what}.sign", base)),
        "push": lambda node: _optional(node, lambda: _push(node, f"{what}.push")),
        "promote": lambda node: _optional(node, lambda: _promote(node, f"{what}.promote", base)),
        "resources": lambda node: _resources(node, f"{what}.resources"),
    }
    return replace(before, **{name: read[name](member) for name, member in members.items()})


def _is_none(node: Node) -> bool:
    return isinstance(node, Scalar) and node.text == NONE


def _optional(node: Node, read: Callable[[], Value]) -> Value | None:
    return None if _is_none(node) else read()


def _word(node: Node, what: str, known: Sequence[str]) -> str | None:
    found = strictyaml.read_choice(node, what, (*known, NONE))
    return None if found == NONE else found


def _vendor(node: Node, what: str) -> tuple[str, ...]:
    if _is_none(node):
        return ()
    listed = strictyaml.read_items(node, what, most=64)
    expect = "a platform such as `linux_x86_64-cp311`"
    return tuple(sorted({strictyaml.read_text(item, what, pattern=_PLATFORM, expect=expect) for item in listed}))


def _profile(node: Node, what: str, base: Path) -> str:
    name = strictyaml.read_text(
        node, what, pattern=_LINE, expect="the name of a profile, or a `.yaml` file", limit=1024
    )
    return str(base / name) if name.endswith((".yaml", ".yml")) else name


def _conform(node: Node, what: str) -> Conform:
    members = strictyaml.read_fields(node, what, ("runtimes", "level", "strict"))
    listed = strictyaml.read_items(members["runtimes"], f"{what}.runtimes", most=256) if "runtimes" in members else ()
    expect = "a runtime such as `onnxruntime==1.31.1`, or `onnxruntime==*`"
    runtimes = tuple(strictyaml.read_text(item, f"{what}.runtimes", pattern=_LINE, expect=expect) for item in listed)
    level = "L5"
    if "level" in members:
        level = strictyaml.read_text(members["level"], f"{what}.level", pattern=_LEVEL, expect="`L0` to `L5`")
    strict = strictyaml.read_boolean(members["strict"], f"{what}.strict") if "strict" in members else False
    return Conform(runtimes, int(level[1]), strict)


def _signer(node: Node, what: str, base: Path) -> str:
    uri = strictyaml.read_text(node, what, pattern=_URI, expect="a signer such as `key:release.pem`", limit=4096)
    scheme, _, location = uri.partition(":")
    if scheme == "key" or (scheme == "keyless" and location):
        return f"{scheme}:{base / location}"
    if scheme == "certificate":
        path, _, query = location.partition("?")
        named = {key: str(base / value) if key in ("key", "chain") else value for key, value in parse_qsl(query)}
        return f"certificate:{base / path}?{urlencode(named)}"
    return uri


def _push(node: Node, what: str) -> str:
    expect = "an address such as `oci://registry.example.com/models/{name}:{version}`"
    address = strictyaml.read_text(node, what, pattern=_PUSH, expect=expect, limit=2048)
    for word in _PLACEHOLDERS.findall(address):
        if word not in ("name", "version"):
            raise node.where.error(f"`{what}`: `{{{word:.40}}}` is unknown", hint="known: `{name}`, `{version}`")
    return address


def _promote(node: Node, what: str, base: Path) -> Promote:
    known = ("stage", "profile", "trust", "sign")
    members = strictyaml.read_fields(node, what, known, required=("stage", "trust", "sign"))
    stage = strictyaml.read_text(members["stage"], f"{what}.stage", pattern=_STAGE, expect="a stage such as `staging`")
    trust = strictyaml.read_text(members["trust"], f"{what}.trust", pattern=_LINE, expect="the path of a trust file")
    profile = _profile(members["profile"], f"{what}.profile", base) if "profile" in members else "release"
    return Promote(stage, profile, str(base / trust), _signer(members["sign"], f"{what}.sign", base))


def _resources(node: Node, what: str) -> Needs:
    if _is_none(node):
        return Needs()
    members = strictyaml.read_fields(node, what, ("cpus", "memory", "gpus", "accelerator"))
    found: dict[str, Any] = {
        name: strictyaml.read_integer(members[name], f"{what}.{name}", 1, MOST_UNITS)
        for name in ("cpus", "gpus")
        if name in members
    }
    if "memory" in members:
        found["memory"] = read_memory(members["memory"], f"{what}.memory")
    if "accelerator" in members:
        expect = "a type that Ray knows, such as `H100`"
        found["accelerator"] = strictyaml.read_text(
            members["accelerator"], f"{what}.accelerator", pattern=_ACCELERATOR, expect=expect
        )
    return Needs(**found)


def list_signers(models: Iterable[Model]) -> list[str]:
    """Return the URIs of all who sign, sorted."""
    found = {model.settings.sign for model in models}
    found |= {model.settings.promote.sign for model in models if model.settings.promote}
    return sorted(uri for uri in found if uri)


def list_secrets(models: Iterable[Model]) -> list[tuple[str, str]]:
    """Return the signers that need a passphrase, a PIN or a token: the URI, and whose secret it is."""
    from packager.trust.keys import is_encrypted  # what only plans needs no cryptography

    found = []
    for uri in list_signers(models):
        scheme, _, location = uri.partition(":")
        path, _, query = location.partition("?")
        key = dict(parse_qsl(query)).get("key", "") if scheme == "certificate" else path
        if scheme == "keyless":
            found.append((uri, scheme))
        elif scheme not in ("key", "certificate") or is_encrypted(Path(key)):
            found.append((uri, key))
    return found


def fill_address(template: str, name: str, version: str) -> str:
    """Return the address that a model is pushed to."""
    filled = {"name": name, "version": version}
    return _PLACEHOLDERS.sub(lambda found: filled[found[1]], template)


def _check_addresses(models: Iterable[Model], file: str) -> None:
    taken: dict[str, str] = {}
    for model in models:
        if model.settings.push is None or model.problem:
            continue
        address = fill_address(model.settings.push, model.name, model.version)
        if address in taken:
            raise UsageError(
                f"{file}: `{taken[address]}` and `{model.name}` are both pushed to `{address}`",
                hint="write `{name}` into the address of `push`",
            )
        taken[address] = model.name


def _check_order(models: Mapping[str, Model], entries: Mapping[str, _Entry]) -> None:
    """Refuse an `after` that names no model, and models that wait for each other."""
    for name in models:
        for other, where in entries[name].after if name in entries else ():
            if other not in models:
                raise where.error(f"`after`: no model is called `{other:.80}`", hint=did_you_mean(other, models))
    done: set[str] = set()
    for name in models:
        _visit(name, models, done, [], entries)


def _visit(
    name: str, models: Mapping[str, Model], done: set[str], path: list[str], entries: Mapping[str, _Entry]
) -> None:
    """Walk what `name` waits for, depth first and without recursion; a model that is met on its own way is a circle."""
    stack = [(name, iter(models[name].after))] if name not in done else []
    path.append(name)
    while stack:
        here, left = stack[-1]
        other = next(left, None)
        if other is None:
            done.add(here)
            path.pop()
            stack.pop()
        elif other in path:
            circle = " → ".join([*path[path.index(other) :], other])
            raise entries[here].where.error(f"`after`: models wait for each other: {circle}", hint="remove one of them")
        elif other not in done:
            path.append(other)
            stack.append((other, iter(models[other].after)))

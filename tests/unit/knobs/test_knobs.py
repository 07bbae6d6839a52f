# SPDX-License-Identifier: Apache-2.0
"""Values of a site are within the declared bounds, or refused with a sentence; the bundle does not change."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packager import canonical
from packager.errors import MalformedError, UsageError
from packager.knobs import catalogue, knobs
from packager.knobs.knobs import Override, Resolved
from packager.store.store import Store
from tests.support import bundles
from tests.support.breadth import examples

CONTRACT = copy.deepcopy(bundles.CONTRACT_OF_TINY)
CONTRACT["targets"]["triton-cpu-fp32"] = {**CONTRACT["targets"]["onnxruntime-cpu-fp32"], "runtime": "triton"}
DOCUMENT = catalogue.schema_bytes(CONTRACT)
SCHEMA = knobs.parse(DOCUMENT)
VALIDATOR = jsonschema.Draft202012Validator(json.loads(DOCUMENT))
BUNDLE = "sha256:" + "0" * 64


def nested(values: dict) -> dict:
    tree: dict = {}
    for name, value in values.items():
        group, _, key = name.partition(".")
        tree.setdefault(group, {})[key] = value
    return tree


def resolve(*overrides: Override) -> Resolved:
    return knobs.resolve(SCHEMA, BUNDLE, overrides)


def test_the_schema_is_a_json_schema_and_the_defaults_fit_it() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(DOCUMENT))
    VALIDATOR.validate(nested(resolve().values))
    assert all(knob.about.endswith(".") and knob.needs in ("restart", "reload") for knob in SCHEMA.values())


def test_the_contract_bounds_the_batch() -> None:
    assert (SCHEMA["batch.max"].high, SCHEMA["batch.max"].default) == (8, 8)
    with pytest.raises(UsageError, match=r"batch.max`: expected a whole number from 1 to 8 rows, got `9`"):
        resolve(Override("batch.max", "9", "--set"))


TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
HOSTILE = st.sampled_from(
    [
        "../../etc/passwd",
        "/etc/passwd",
        "$(id)",
        "a\n",
        "x;rm",
        "file:/../x",
        "file:/etc/tls/key.pem",
        "env:KEY",
        "0x10",
        "__import__('os')",
        "127.0.0.1",
        "true",
        "1",
        "9",
        "k8s:tls/key",
        '"}',
        "${HOME}",
        "!!python/object",
        "1e3",
        "text",
    ]
)
SCALAR = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.integers(0, 10),
    TEXT,
    HOSTILE,
    st.floats(allow_nan=False, allow_infinity=False),
)
VALUE = st.recursive(SCALAR, lambda v: st.lists(v, max_size=3) | st.dictionaries(TEXT, v, max_size=3), max_leaves=5)
NAME = st.one_of(
    st.sampled_from(sorted(SCHEMA)), st.sampled_from(["server.prot", "metrics.labels.site", "__proto__.x"]), TEXT
)


@given(st.lists(st.tuples(NAME, VALUE, st.booleans()), max_size=6))
@settings(max_examples=examples(500), deadline=None)
def test_accepted_values_are_declared_and_within_bounds(overlay: list) -> None:
    """Judged by another validator; a refusal is one sentence of ours and never another exception."""
    overrides = [
        Override(n, v if typed or isinstance(v, str) else json.dumps(v), "x", typed) for n, v, typed in overlay
    ]
    try:
        found = resolve(*overrides)
    except UsageError:
        return
    assert set(found.values) <= set(SCHEMA)
    VALIDATOR.validate(nested(found.values))
    assert found.digest == canonical.sha256(canonical.dump({"bundle": BUNDLE, "values": found.values}))


@given(NAME.filter(lambda name: name in SCHEMA), VALUE)
@settings(max_examples=examples(500), deadline=None)
def test_json_schema_and_knobs_agree(name: str, value: object) -> None:
    """Except that a whole number written as 1.0 is one for JSON Schema only."""
    try:
        ours = resolve(Override(name, value, "x", typed=True)) is not None
    except UsageError:
        ours = False
    theirs = VALIDATOR.is_valid(nested({name: value}))
    assert ours == theirs or (theirs and "." in repr(value)), (name, value)


@given(VALUE)
@settings(max_examples=examples(100), deadline=None)
def test_a_hostile_schema_is_refused(value: object) -> None:
    with pytest.raises(MalformedError):
        knobs.parse(json.dumps(value).encode())


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["properties"]["server"]["properties"].update(exec={"x-kind": "text", "type": "string"}),
        lambda d: d["properties"]["server"].update(additionalProperties=True),
        lambda d: d["properties"]["server"]["properties"]["host"].update(pattern=".*"),
        lambda d: d["properties"]["server"]["properties"]["port"].update(default=99999),
        lambda d: d.update(extra=1),
    ],
)
def test_a_schema_that_declares_more_than_knobs_is_refused(change) -> None:
    document = json.loads(DOCUMENT)
    change(document)
    with pytest.raises(MalformedError):
        knobs.parse(canonical.dump(document))


# row 62: config overlays that attack


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("server: {command: rm -rf /}", "has no knob `server.command`"),
        ("parameters: {EXECUTION_ENV_PATH: /tmp/x}", "has no knob `parameters.EXECUTION_ENV_PATH`"),
        ("server: {prot: 1}", "has no knob `server.prot`"),
        ("server: {port: '8000'}", "got `8000`"),
        ("server: {port: [8000]}", "expected a whole number"),
        ("server: {port: {a: 1}}", "got a mapping"),
        ("server: {host: ../../etc}", "expected a host name"),
        ("server: {host: '127.0.0.1\\n'}", "expected"),
        ("tls: {key: /etc/tls/key.pem}", "expected where the secret is"),
        ("tls: {key: 'file:/srv/../etc/shadow'}", "expected where the secret is"),
        ("tls: {key: 'file:relative'}", "expected where the secret is"),
        ("log: {level: !!python/object:os.system x}", "tag"),
        ("a: &a [1]\nb: *a", "anchor"),
        ("server: {port: 1, port: 2}", "already on line"),
        ("- server", "expected a mapping"),
        ("server: 1", "expected a mapping"),
        ('metrics: {labels: {site: "a\\"} 1"}}', "expected"),
        ("metrics: {labels: {__name__: x}}", "expected"),
    ],
)
def test_a_hostile_values_file_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(*knobs.from_values(text.encode(), "site.yaml", SCHEMA))
    assert reason in caught.value.message


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PACKAGER_KNOB__SERVER__PORT", "8000; rm"),
        ("PACKAGER_KNOB__LD_PRELOAD", "/tmp/x.so"),
        ("PACKAGER_KNOB__SERVER__PYTHONPATH", "/tmp"),
        ("PACKAGER_KNOB__", "1"),
        ("PACKAGER_KNOB__SERVER__HOST", "$(id)"),
    ],
)
def test_a_hostile_environment_is_refused(variable: str, value: str) -> None:
    with pytest.raises(UsageError, match=variable):
        resolve(*knobs.from_environment({variable: value}))


def test_the_later_source_wins_and_is_named() -> None:
    found = resolve(
        *knobs.from_values(
            b"server:\n  port: 9000\n  drain: 5\nmetrics:\n  labels: {site: berlin}\n", "a.yaml", SCHEMA
        ),
        *knobs.from_environment(
            {"PACKAGER_KNOB__SERVER__PORT": "9001", "PACKAGER_KNOB__METRICS__LABELS__TEAM": "x", "A": "b"}
        ),
        *knobs.from_arguments(["server.port=9002"]),
    )
    assert (found.values["server.port"], found.settings["server.port"].origin) == (9002, "--set")
    assert (found.values["server.drain"], found.settings["server.drain"].origin) == (5, "a.yaml:3")
    assert found.values["metrics.labels"] == {"site": "berlin", "team": "x"}
    assert found.settings["server.host"].origin == "default"
    assert set(found.changed) == {"server.port", "server.drain", "metrics.labels"}


def test_digest_depends_on_values_not_on_origins() -> None:
    one = resolve(Override("server.port", "9000", "--set"))
    assert one.digest == resolve(Override("server.port", 9000, "a.yaml:1", typed=True)).digest
    assert one.digest != resolve().digest
    assert one.digest != knobs.resolve(SCHEMA, "sha256:" + "1" * 64, [Override("server.port", "9000", "--set")]).digest


def test_secret_given_instead_of_a_reference_is_not_shown() -> None:
    with pytest.raises(UsageError) as caught:
        resolve(Override("tls.key", "hunter2", "--set"))
    assert "hunter2" not in f"{caught.value.message}{caught.value.hint}"


def test_the_command_shows_origins_and_compares(packager, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    contract = canonical.dump(CONTRACT)
    bundles.make(store, {"contract.json": contract, knobs.FILE: DOCUMENT})
    (tmp_path / "site.yaml").write_text("server: {port: 9000}\n")
    shown = packager("config", "tiny:1.0.0", "--values", "site.yaml", "--env", PACKAGER_KNOB__LOG__LEVEL="debug").stdout
    assert "server.port" in shown
    assert "site.yaml:1" in shown
    assert "PACKAGER_KNOB__LOG__LEVEL" in shown
    saved = packager("config", "tiny:1.0.0", "--values", "site.yaml", "--json").stdout
    (tmp_path / "berlin.json").write_text(saved)
    done = packager("config", "diff", "berlin.json", "tiny:1.0.0", "--json", code=1)
    assert json.loads(done.stdout)["changes"] == [{"knob": "server.port", "before": 9000, "after": 8000}]
    assert "no knob differs" in packager("config", "diff", "tiny:1.0.0", "tiny:1.0.0").stdout
    refused = packager("config", "tiny:1.0.0", "--set", "server.prot=1", code=2).stderr
    assert "did you mean `server.port`" in refused
    assert "from 1 to 65535" in packager("config", "tiny:1.0.0", "--explain").stdout
    assert "expected NAME=VALUE" in packager("config", "tiny:1.0.0", "--set", "port", code=2).stderr
    assert "go together" in packager("config", "tiny:1.0.0", "--set", "tls.key=env:KEY", code=2).stderr

# SPDX-License-Identifier: Apache-2.0
"""What every rendered directory keeps to, and what each kind of it refuses. The files' own judges are in tests/e2e."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from packager.bundle.knobs import knob_schema
from packager.deploy import server_files, wheel_files
from packager.deploy.renderers import _alerts
from packager.errors import IntegrityError, UsageError, WrongContentError
from packager.knobs.knobs import Override
from packager.server import knobs as server_knobs
from packager.server.telemetry import metrics
from packager.store.store import Store
from tests.support import bundles, deployments
from tests.support.breadth import examples
from tests.support.deployments import BASE, DIGEST, OPTIONS, carrier, rendered, snapshot

KINDS = sorted(OPTIONS)
SLO = {"p50_ms": 1.0, "p99_ms": 5.0, "at_rps": 200.0, "memory": 5e8, "cold_start_s": 9.0}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory):
    return carrier(Store(tmp_path_factory.mktemp("store")), SLO)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bundle_and_knobs_give_the_same_bytes(kind: str, bundle, tmp_path: Path) -> None:
    """Whatever the directory, the umask and the time; and again over what was there."""
    first = snapshot(rendered(kind, bundle, tmp_path / "first"))
    before = os.umask(0o077)
    try:
        time.sleep(0.01)
        second = rendered(kind, bundle, tmp_path / "deep" / "er" / "second")
        assert snapshot(second) == first
        assert snapshot(rendered(kind, bundle, second)) == first
    finally:
        os.umask(before)
    assert [path.name for path in second.parent.iterdir()] == ["second"], "nothing half-written stays"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_an_earlier_rendering_stays(kind: str, bundle, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds something else"):
        rendered(kind, bundle, tmp_path)
    other = next(name for name in KINDS if name != kind)
    rendered(other, bundle, tmp_path / "other")
    with pytest.raises(UsageError, match="holds something else"):
        rendered(kind, bundle, tmp_path / "other")


@pytest.mark.parametrize("kind", KINDS)
def test_the_record_names_bundle_knobs_and_files(kind: str, bundle, tmp_path: Path) -> None:
    out = rendered(kind, bundle, tmp_path / "out", Override("batch.max", "3", "--set"))
    record = json.loads((out / "deployment.json").read_text())
    assert (record["kind"], record["bundle"], record["values"]["batch.max"]) == (kind, bundle.digest, 3)
    own = {path: blob.digest for path, blob in bundle.tree}
    assert set(record["files"].values()) <= set(own.values())


@pytest.mark.parametrize("kind", ["bentoml", "container"])
def test_bytes_that_are_not_signed_are_not_rendered(kind: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    bundle = carrier(store)
    blob = bundle.tree.get("model/weights-0001.bin")
    victim = next(store.root.rglob(blob.digest.removeprefix("sha256:")))
    victim.chmod(0o644)
    victim.write_bytes(bytes(victim.stat().st_size))
    with pytest.raises(WrongContentError, match="is not what was signed"):
        rendered(kind, bundle, tmp_path / "out")
    assert not (tmp_path / "out").exists()


NAME = st.sampled_from(
    [
        "batch.max",
        "server.host",
        "server.port",
        "metrics.labels",
        "tls.key",
        "tls.certificate",
        "deploy.memory",
        "log.level",
        "bentoml.workers",
        "container.run",
        "server.drain",
    ]
)
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
VALUE = st.one_of(
    st.integers(-5, 9000),
    TEXT,
    st.booleans(),
    st.sampled_from(
        [
            "0.0.0.0",
            "file:/run/x/key",
            "k8s:certs/tls.key",
            "$(reboot)",
            "a\nExecStart=/bin/sh",
            '"]\nRUN sh',
            "{{ .Values }}",
            "%h",
            "../../etc",
            "env:KEY",
        ]
    ),
)


@given(st.sampled_from(KINDS), st.lists(st.tuples(NAME, VALUE | st.dictionaries(st.just("place"), VALUE)), max_size=3))
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_accepted_overlay_adds_a_line_or_a_file(bundle, tmp_path_factory, kind: str, overlay: list) -> None:
    """Paths stay the same (but for the autoscaler's), signed files too, and no file of lines has one more directive."""
    root = tmp_path_factory.mktemp("overlay")
    plain = snapshot(rendered(kind, bundle, root / "plain"))
    try:
        out = rendered(kind, bundle, root / "out", *(Override(name, value, "x", typed=True) for name, value in overlay))
    except UsageError:
        return
    found = snapshot(out)
    assert {path.name for path in root.iterdir()} == {"plain", "out"}
    assert set(found) ^ set(plain) <= {"manifests/horizontalpodautoscaler.yaml"}
    for path, digest in json.loads((out / "deployment.json").read_text())["files"].items():
        place = out / ("model" if kind == "container" else "") / path
        assert f"sha256:{hashlib.sha256(place.read_bytes()).hexdigest()}" == digest
    for name in ("Containerfile", "tiny.socket"):
        if name in found:
            assert len(found[name][1].splitlines()) == len(plain[name][1].splitlines())
    if "tiny.service" in found:
        keys = [
            [row.partition(b"=")[0] for row in text.splitlines() if not row.startswith(b"LoadCredential")]
            for text in (found["tiny.service"][1], plain["tiny.service"][1])
        ]
        assert [key for key in keys[0] if key] == [key for key in keys[1] if key]


# memory


def limits(bundle, place: Path, *wishes: Override) -> tuple[str, str]:
    """What a pod and a unit may take."""
    out = rendered("kubernetes", bundle, place / "kubernetes", *wishes)
    (unit,) = rendered("systemd", bundle, place / "systemd", *wishes).glob("*.service")
    (line,) = (row for row in unit.read_text().splitlines() if row.startswith("MemoryMax="))
    pod = (out / "manifests" / "deployment.yaml").read_text()
    return re.search(r"limits:\s+memory: (\w+)", pod)[1], line.removeprefix("MemoryMax=")


def test_memory_grows_with_what_the_knobs_ask_for_and_is_the_site_s_where_it_says_so(bundle, tmp_path: Path) -> None:
    least = int(limits(bundle, tmp_path / "a")[0].removesuffix("Mi"))
    assert least == knob_schema(bundle)["deploy.memory"].default >= 512
    more = Override("server.processes", "3", "--set"), Override("runtime.processes", "2", "--set")
    pod, unit = limits(bundle, tmp_path / "b", *more)
    assert pod == f"{unit[:-1]}Mi" and int(unit[:-1]) >= least + 2 * 384 + 6 * 64
    assert limits(bundle, tmp_path / "c", *more, Override("deploy.memory", "700", "--set")) == ("700Mi", "700M")


# container


def test_an_image_needs_wheels_and_a_pinned_base(bundle, tmp_path: Path) -> None:
    out = rendered("container", bundle, tmp_path / "out")
    assert (out / "site" / "kleines" / "__init__.py").exists()
    assert not list((out / "site").glob("*.whl"))
    text = (out / "Containerfile").read_text()
    assert "RUN" not in text.split()
    assert text.count(f"FROM {BASE} ") == 1
    command = next(row for row in text.splitlines() if row.startswith("CMD "))
    (told,) = json.loads(command.removeprefix("CMD "))
    assert json.loads(told.removeprefix("--knobs="))["values"]["server.host"] == "0.0.0.0"
    for base, message in (
        ("", "--base is missing"),
        ("python:3.11", "is not an image"),
        ("x@sha256:12", "is not an image"),
    ):
        with pytest.raises(UsageError, match=message):
            rendered("container", bundle, tmp_path / "not", base=base)
    with pytest.raises(UsageError, match="carries no wheels for `linux_x86_64-cp312`"):
        rendered("container", bundle, tmp_path / "not", platform="linux_x86_64-cp312")
    with pytest.raises(UsageError, match="carries no wheels") as caught:
        rendered("container", bundles.make(Store(tmp_path / "store")), tmp_path / "not")
    assert "vendor:" in caught.value.hint


@pytest.mark.parametrize(
    ("members", "kind", "error"),
    [
        ({"../evil.py": b""}, 0o100644, IntegrityError),
        ({"/etc/evil": b""}, 0o100644, IntegrityError),
        ({"a/link": b"/etc/passwd"}, 0o120777, IntegrityError),
        ({"x-1.0.data/data/etc/x": b""}, 0o100644, UsageError),
        ({"kleines.py": b""}, 0o100644, UsageError),
    ],
)
def test_wheels_that_reach_beyond_their_place(members: dict, kind: int, error: type, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "kleines.py").write_text("there first")
    (tmp_path / "x.whl").write_bytes(deployments.wheel(members, kind))
    with pytest.raises(error):
        wheel_files.unpack(tmp_path / "x.whl", site)
    assert [path.name for path in site.iterdir()] == ["kleines.py"]
    assert (site / "kleines.py").read_text() == "there first"


def test_parts_of_a_wheel_go_where_they_are_imported(tmp_path: Path) -> None:
    data = deployments.wheel({"m/a.py": b"1", "m-1.data/platlib/m/b.so": b"2", "m-1.data/scripts/m": b"3"})
    (tmp_path / "m.whl").write_bytes(data)
    wheel_files.unpack(tmp_path / "m.whl", tmp_path / "site")
    assert {name for name, (_, text, _) in snapshot(tmp_path / "site").items() if text} == {"m/a.py", "m/b.so"}
    (tmp_path / "torn.whl").write_bytes(data[:-9])
    with pytest.raises(IntegrityError, match="is not a wheel"):
        wheel_files.unpack(tmp_path / "torn.whl", tmp_path / "other")


# kubernetes


def objects(out: Path) -> dict:
    return {path.stem: yaml.safe_load(path.read_text()) for path in (out / "manifests").glob("*.yaml")}


@pytest.mark.parametrize("variant", ["embedded", "image-volume", "init-container"])
def test_pods_are_restricted_in_every_variant(variant: str, bundle, tmp_path: Path) -> None:
    more = {
        "image-volume": {"model_image": f"r.example/m@{DIGEST}"},
        "init-container": {"init_image": f"r.example/p@{DIGEST}", "source": f"oci://r.example/tiny@{DIGEST}"},
    }
    out = rendered("kubernetes", bundle, tmp_path / "out", variant=variant, **more.get(variant, {}))
    pod = objects(out)["deployment"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    for container in (*pod["containers"], *pod.get("initContainers", [])):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["image"].endswith(DIGEST)
    sources = {source for volume in pod.get("volumes", []) for source in volume if source != "name"}
    assert (
        sources
        == {"embedded": set(), "image-volume": {"image"}, "init-container": {"emptyDir", "configMap", "secret"}}[
            variant
        ]
    )
    if more.get(variant):
        with pytest.raises(UsageError, match="is missing"):
            rendered("kubernetes", bundle, tmp_path / "not", variant=variant)


def test_a_turned_knob_is_a_rolling_update(bundle, tmp_path: Path) -> None:
    first, second = (
        objects(rendered("kubernetes", bundle, tmp_path / str(rows), Override("batch.max", rows, "--set")))
        for rows in ("4", "5")
    )
    assert first["configmap"]["metadata"]["name"] != second["configmap"]["metadata"]["name"]
    assert first["configmap"]["immutable"] is True
    refers = first["deployment"]["spec"]["template"]["spec"]["containers"][0]["env"][0]["valueFrom"]["configMapKeyRef"]
    assert refers["name"] == first["configmap"]["metadata"]["name"]


def test_secrets_stay_where_they_are(bundle, tmp_path: Path) -> None:
    def tls(kind: str) -> list[Override]:
        return [
            Override("tls.certificate", kind.replace("KEY", "tls.crt"), "--set"),
            Override("tls.key", kind.replace("KEY", "tls.key"), "--set"),
        ]

    out = rendered("kubernetes", bundle, tmp_path / "k", *tls("k8s:certs/KEY"))
    pod = objects(out)["deployment"]["spec"]["template"]["spec"]
    assert [volume["secret"]["secretName"] for volume in pod["volumes"]] == ["certs", "certs"]
    assert "--tls-key=/srv/secrets/tls.key/tls.key" in pod["containers"][0]["args"]
    assert pod["containers"][0]["readinessProbe"]["httpGet"]["scheme"] == "HTTPS"
    assert "certs" not in objects(out)["configmap"]["data"]["knobs.json"]
    unit = (rendered("systemd", bundle, tmp_path / "s", *tls("file:/etc/tls/KEY")) / "tiny.service").read_text()
    assert "LoadCredential=tls.key:/etc/tls/tls.key\n" in unit
    site = yaml.safe_load((tmp_path / "s" / "tiny.yaml").read_text())
    assert site["tls"]["key"] == "file:/run/credentials/tiny.service/tls.key"
    for kind, reference in (
        ("kubernetes", "file:/etc/KEY"),
        ("systemd", "k8s:certs/KEY"),
        ("container", "k8s:certs/KEY"),
    ):
        with pytest.raises(UsageError, match="tls"):
            rendered(kind, bundle, tmp_path / "not", *tls(reference))


def test_prometheus_may_read_where_its_namespace_is_named(bundle, tmp_path: Path) -> None:
    out = objects(
        rendered(
            "kubernetes", bundle, tmp_path / "out", Override("server.grpc_port", "8001", "--set"), monitoring="watch"
        )
    )
    (own, prometheus) = out["networkpolicy"]["spec"]["ingress"]
    assert prometheus["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "watch"}}}]
    assert [row["port"] for row in prometheus["ports"]] == [8000] and len(own["ports"]) == 2
    pod = out["deployment"]["spec"]["template"]
    monitor = out["podmonitor"]["spec"]
    assert monitor["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert endpoint["port"] in {row["name"] for row in pod["spec"]["containers"][0]["ports"]}
    alone = objects(rendered("kubernetes", bundle, tmp_path / "alone"))
    assert "podmonitor" not in alone and len(alone["networkpolicy"]["spec"]["ingress"]) == 1
    assert "{{ .Release.Name" in (tmp_path / "out" / "chart" / "templates" / "podmonitor.yaml").read_text()


@pytest.mark.parametrize(("user", "expected"), [("", 65532), ("1000", 1000), ("any", None)])
def test_the_cluster_may_choose_the_user(user: str, expected: int | None, bundle, tmp_path: Path) -> None:
    more = {
        "variant": "init-container",
        "init_image": f"r.example/p@{DIGEST}",
        "source": f"oci://r.example/tiny@{DIGEST}",
    }
    out = rendered("kubernetes", bundle, tmp_path / "out", user=user, **more)
    pod = objects(out)["deployment"]["spec"]["template"]["spec"]
    contexts = [
        pod["securityContext"],
        *(item["securityContext"] for item in (*pod["containers"], *pod["initContainers"])),
    ]
    assert [context.get("runAsUser") for context in contexts] == [expected] * 3
    assert pod["securityContext"].get("fsGroup") == expected
    assert all(context["runAsNonRoot"] for context in contexts)


@pytest.mark.parametrize("variant", ["embedded", "init-container"])
def test_what_lies_on_the_nodes_disk_is_asked_for_and_bounded(variant: str, bundle, tmp_path: Path) -> None:
    more = (
        {"init_image": f"r.example/p@{DIGEST}", "source": f"oci://r.example/tiny@{DIGEST}"} if "init" in variant else {}
    )
    out = rendered("kubernetes", bundle, tmp_path / "out", variant=variant, **more)
    pod = objects(out)["deployment"]["spec"]["template"]["spec"]
    for container in (*pod["containers"], *pod.get("initContainers", [])):
        sizes = {kind: container["resources"][kind]["ephemeral-storage"] for kind in ("requests", "limits")}
        assert set(sizes.values()) == {"128Mi" if variant == "embedded" else "130Mi"}
    values = yaml.safe_load((out / "chart" / "values.yaml").read_text())
    assert values["resources"] == pod["containers"][0]["resources"]


def test_the_image_of_an_init_container_has_a_recipe(bundle, tmp_path: Path) -> None:
    more = {
        "variant": "init-container",
        "init_image": f"r.example/p@{DIGEST}",
        "source": f"oci://r.example/tiny@{DIGEST}",
    }
    out = rendered("kubernetes", bundle, tmp_path / "out", **more)
    recipe = (out / "init-image" / "Containerfile").read_text()
    fetch = objects(out)["deployment"]["spec"]["template"]["spec"]["initContainers"][0]
    assert fetch["command"][0] == "packager" and 'ENTRYPOINT ["packager"]' in recipe
    assert not (rendered("kubernetes", bundle, tmp_path / "other") / "init-image").exists()


# systemd and what watches


@pytest.mark.parametrize(
    ("kind", "wish", "same"),
    [
        ("kubernetes", None, True),
        ("systemd", None, True),
        ("observability", ("server.port", "9001"), True),
        ("observability", ("server.grpc_port", "9002"), True),
        ("observability", ("log.level", "debug"), True),
        ("observability", ("metrics.labels.place", "oslo"), True),
        ("observability", ("deploy.replicas", "4"), True),
        ("observability", ("batch.max", "4"), False),
        ("observability", ("runtime.threads", "2"), False),
        ("observability", ("server.read_timeout", "10"), False),
    ],
)
def test_only_knobs_that_change_answers_are_other_knobs(
    kind: str, wish: tuple[str, str] | None, same: bool, bundle, tmp_path: Path
) -> None:
    """The server tells the digest of its own knobs; the rule compares it with those that it was rendered from."""
    out = rendered("observability", bundle, tmp_path / "out")
    (query,) = [
        rule["expr"]
        for rule in yaml.safe_load((out / "rules.yaml").read_text())["groups"][0]["rules"]
        if rule["alert"].endswith("OtherKnobs")
    ]
    chosen = deployments.values(kind, bundle, *([Override(*wish, "--set")] if wish else []))
    told = server_knobs.Knobs.parse(server_files.build_document(chosen)).tuning
    assert told == server_files.digest_tuning(chosen) and told.startswith("sha256:")
    accepted = re.search(r'tuning!~"([^"]*)"', query)
    assert accepted
    assert (re.fullmatch(accepted[1], told) is not None) is same
    assert re.fullmatch(accepted[1], server_knobs.Knobs().tuning), "a server that knows no knobs has none to differ in"


def test_units_name_only_what_the_service_sees(bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not see"):
        rendered("systemd", bundle, tmp_path / "not", directory="/home/me/digits")
    with pytest.raises(UsageError, match="takes an address"):
        rendered("systemd", bundle, tmp_path / "not", Override("server.host", "model.example", "--set"))
    out = rendered("systemd", bundle, tmp_path / "six", Override("server.host", "::1", "--set"))
    assert "ListenStream=[::1]:8000\n" in (out / "tiny.socket").read_text()
    assert "PrivateNetwork=yes\n" in (out / "tiny.service").read_text()
    out = rendered("systemd", bundle, tmp_path / "grpc", Override("server.grpc_port", "8001", "--set"))
    assert "PrivateNetwork=no\n" in (out / "tiny.service").read_text()


def test_every_alert_is_in_the_runbook_and_every_objective_in_an_alert(bundle, tmp_path: Path) -> None:
    out = rendered("observability", bundle, tmp_path / "out", runbook_url="https://wiki.example/tiny")
    rules = yaml.safe_load((out / "rules.yaml").read_text())["groups"][0]["rules"]
    runbook = (out / "RUNBOOK.md").read_text()
    for rule in rules:
        name = rule["alert"].removeprefix("Tiny")
        assert f"### {name}\n" in runbook
        assert rule["annotations"]["runbook_url"] == f"https://wiki.example/tiny#{name.lower()}"
        assert rule["expr"] in runbook
    names = {rule["alert"] for rule in rules}
    assert {"TinyLatencyP99Page", "TinyLatencyP50Ticket", "TinyTraffic", "TinyMemory"} <= names
    assert "at most 5 ms" in runbook


@given(st.floats(0.001, 20_000))
def test_an_objective_is_judged_by_the_next_larger_bucket(milliseconds: float) -> None:
    bound = _alerts.bucket_for(milliseconds) * 1000
    assert bound >= milliseconds
    assert all(other * 1000 >= bound for other in _alerts.BUCKETS if other * 1000 >= milliseconds)


def test_the_buckets_are_those_of_the_server() -> None:
    assert _alerts.BUCKETS == metrics._SECONDS


def test_unpacking_the_same_bundle_again_checks_and_writes_nothing(bundle, tmp_path: Path) -> None:
    """An init container may run twice on one volume."""
    store = ["--store", str(bundle.medium.store.root.parent)]
    command = [sys.executable, "-m", "packager", "unpack", f"{bundle.name}:{bundle.version}", tmp_path / "out", *store]
    for _ in range(2):
        subprocess.run(command, check=True, capture_output=True)
    (tmp_path / "out" / "model" / "model.onnx").write_bytes(b"other")
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, "model.onnx" in done.stderr) == (5, True)

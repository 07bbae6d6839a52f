# SPDX-License-Identifier: Apache-2.0
"""`packager conform` on real bundles: the verdict, its files, its attestation, and a running server."""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import sys
import threading
import urllib.request
import xml.etree.ElementTree as xml
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from packager.conform import cells
from packager.runtime import find_testable
from tests.e2e.conftest import Project, tool
from tests.e2e.test_server import app, free_port, running  # noqa: F401 - `app` is a fixture

HERE = ["--runtime", f"onnxruntime=={onnxruntime.__version__}", "--python", sys.executable]


@pytest.fixture(scope="module")
def proven(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CNN judged on the ONNX Runtime of this environment, and the result signed by a site's key."""
    out = tmp_path_factory.mktemp("proven")
    built.run("keygen", "site")
    done = built.run(
        "conform",
        "cnn.bundle.tar",
        "--key",
        "release.pub",
        *HERE,
        "--level",
        "L3",
        "--report",
        out,
        "--sign",
        "site.pem",
        "--keep",
        out / "work",
        "--json",
    )
    assert done["verdict"] == {"ok": True, "passed": 1, "failed": [], "unproven": [], "known": []}
    return out


def test_result_names_server_and_bundle(proven: Path) -> None:
    result = json.loads((proven / "result.json").read_text())
    (cell,) = result["cells"]
    assert cell["identity"]["version"] == onnxruntime.__version__ and cell["identity"]["pid"] > 1
    assert cell["identity"]["provider"] == "CPUExecutionProvider"
    reference = result["reference"]
    assert reference["source"] == "run" and reference["runtime"] == "onnxruntime"
    assert 0 < reference["stated"] < reference["cases"], "what the build stated is what answers are compared with"
    assert result["integrity"]["signature"] == "verified"
    assert cell["levels"] == dict.fromkeys(("L0", "L1", "L2", "L3"), "pass")
    assert cell["measures"]["overhead_seconds"] > 0


def test_junit_and_html_hold_every_check(proven: Path) -> None:
    result = json.loads((proven / "result.json").read_text())
    names = [check["name"] for cell in result["cells"] for check in cell["checks"]]
    tree = xml.parse(proven / "junit.xml")
    assert [case.get("name") for case in tree.iter("testcase")] == names
    page = (proven / "report.html").read_text()
    assert not re.search(r"(?:src|href)=|url\(|@import|<script", page), "the page fetches nothing and runs nothing"
    assert "default-src 'none'" in page and all(name.split("[")[0] in page for name in names)


def test_the_attestation_travels_with_the_bundle_and_merges(built: Project, proven: Path, tmp_path: Path) -> None:
    kinds = {item["predicate_type"] for item in built.run("inspect", "cnn.bundle.tar", "--json")["statements"]}
    assert "https://in-toto.io/attestation/test-result/v0.1" in kinds
    built.run("verify", "cnn.bundle.tar", "--key", "release.pub")
    files = (proven / "attestation.sigstore.json", proven / "result.json")
    merged = built.run("conform", "merge", *files, "--key", "site.pub", "--report", tmp_path / "merged", "--json")
    assert merged["verdict"]["ok"] and len(merged["cells"]) == 1, "the same cell on the same host is one cell"
    done = built.run("conform", "merge", files[0], "--key", "release.pub", code=1)
    assert "error:" in done.stderr and "hint:" in done.stderr


def test_a_forged_attestation_is_refused(built: Project, proven: Path, tmp_path: Path) -> None:
    import base64

    document = json.loads((proven / "attestation.sigstore.json").read_text())
    payload = base64.b64decode(document["dsseEnvelope"]["payload"]).replace(b'"outcome":"pass"', b'"outcome":"skip"')
    document["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    forged = tmp_path / "forged.json"
    forged.write_text(json.dumps(document))
    done = built.run("conform", "merge", forged, "--key", "site.pub", code=5)
    assert "is invalid" in done.stderr


def test_results_of_other_bundles_do_not_merge(built: Project, proven: Path, tmp_path: Path) -> None:
    other = json.loads((proven / "result.json").read_text())
    other["bundle"]["digest"] = "sha256:" + "1" * 64
    (tmp_path / "other.json").write_text(json.dumps(other))
    done = built.run("conform", "merge", proven / "result.json", tmp_path / "other.json", code=2)
    assert "expected results about one bundle, got 2" in done.stderr


@pytest.mark.parametrize("damage", ["{}", "[]", '{"format": 2}', "nonsense", '{"format": 1, "cells": [{}]}'])
def test_a_damaged_result_is_refused(built: Project, tmp_path: Path, damage: str) -> None:
    (tmp_path / "result.json").write_text(damage)
    built.run("conform", "merge", tmp_path / "result.json", code=5)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--runtime", "tritn"], 2, "did you mean `triton`"),
        (["--runtime", "triton==1.0"], 2, "no known version of triton is in `==1.0`"),
        (["--runtime", "onnxruntime=!3"], 2, "is no version range"),
        (["--endpoint", "ftp://x"], 2, "is no endpoint"),
        (["--key", "other.pub"], 1, "signed this bundle: expected"),
        (["stray"], 2, "one argument too many"),
    ],
)
def test_misuse_ends_before_anything_runs(built: Project, arguments: list[str], code: int, words: str) -> None:
    if not (built.folder / "other.pub").exists():
        built.run("keygen", "other")
    done = built.run("conform", "cnn.bundle.tar", *arguments, code=code)
    assert words in done.stderr
    built.run("conform", "merge", code=2)


def test_a_damaged_bundle_is_not_judged(built: Project, tmp_path: Path) -> None:
    data = bytearray((built.folder / "cnn.bundle.tar").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bad.bundle.tar").write_bytes(data)
    built.run("conform", tmp_path / "bad.bundle.tar", "--key", "release.pub", *HERE, code=5)


def test_the_promise_decides_the_cells() -> None:
    target = {"runtime": "onnxruntime", "device": "cpu", "precision": "fp32"}
    contract = {"runs-on": {"onnxruntime": {"versions": ">=1.17,<1.25"}}, "targets": {"t": target}}
    assert [cell.version for cell in cells.plan_cells(contract, [])] == ["1.17.0", "1.24.4"]
    everything = cells.plan_cells(contract, [cells.parse_selection("onnxruntime==*")])
    assert len(everything) >= 12 and everything[0].version.startswith("1.15")
    assert {cell.requirements[1] for cell in everything if cell.version < "1.19"} == {"numpy==1.26.4"}
    exact = cells.plan_cells(contract, [cells.parse_selection("onnxruntime==1.22.9")])
    assert exact[0].version == "1.22.9", "a patch release that was not measured may be named"
    triton = {"runs-on": {"triton": {"versions": ">=24.04"}}, "targets": {"t": target}}
    assert [cell.version for cell in cells.plan_cells(triton, [])] == ["2.46.0", "2.51.0"], "NVIDIA's names of releases"
    assert [cell.version for cell in cells.plan_cells(triton, [cells.parse_selection("triton==2.39")])] == ["2.39.0"]
    (later,) = cells.plan_cells({**triton, "runs-on": {"triton": {"versions": ">=25.01"}}}, [])
    assert later.reason.startswith("of the promised `>=25.01` no version can be tested")
    (nothing,) = cells.plan_cells({**contract, "targets": {}}, [cells.parse_selection("triton")])
    assert nothing.reason == "the bundle holds no artefact for onnxruntime, triton"
    names = "bentoml kserve mlserver onnxruntime onnxruntime-gpu openvino serve triton"
    assert set(find_testable()) >= set(names.split())


# --- a running server


def configured(built: Project, folder: Path) -> Path:
    """Write the server's configuration for the CNN, as an installation has it."""
    built.run("unpack", "cnn.bundle.tar", folder / "tree", "--key", "release.pub")
    contract = json.loads((folder / "tree" / "contract.json").read_text())
    config = {
        "name": "cnn",
        "version": "1.2.3",
        "digest": "sha256:" + "0" * 64,
        "runtime": "onnxruntime",
        "target": "onnxruntime-cpu-fp32",
        "artefact": "tree/model/model.onnx",
        "interface": contract["interface"],
    }
    path = folder / "serve.json"
    path.write_text(json.dumps(config))
    return path


@pytest.mark.slow
def test_an_endpoint_is_judged_over_http_and_grpc(built: Project, app: Path, tmp_path: Path) -> None:  # noqa: F811
    port = free_port()
    with running(app, configured(built, tmp_path), "--grpc-port", str(port)) as server:
        endpoints = ("--endpoint", f"http://127.0.0.1:{server.port}", "--endpoint", f"grpc://127.0.0.1:{port}")
        result = built.run("conform", "cnn.bundle.tar", "--key", "release.pub", *endpoints, *HERE[2:], "--json")
    (cell,) = result["cells"]
    assert result["verdict"]["ok"] and set(cell["levels"].values()) == {"pass"}, cell["reason"]
    assert set(cell["measures"]["drift"]) == {"http", "grpc"}
    refused = built.run("conform", "cnn.bundle.tar", "--key", "release.pub", *endpoints, *HERE[2:], "--json", code=1)
    assert refused["cells"][0]["levels"]["L1"] == "fail", "no server listens any more"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Any]:
    """A proxy with TLS that requires a token, in front of a port."""
    command = [
        tool("openssl"),
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
        "-keyout",
        "key.pem",
        "-out",
        "ca.pem",
    ]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        behind = 0

        def log_message(self, *arguments: Any) -> None:
            pass

        def answer(self, body: bytes | None = None) -> None:
            if self.headers["Authorization"] != "Bearer sesame":
                return self.reply(401, {}, b'{"error": "who are you?"}')
            fields = {n: v for n, v in self.headers.items() if n.lower() not in ("host", "connection")}
            request = urllib.request.Request(
                f"http://127.0.0.1:{self.behind}{self.path}", body, fields, method=self.command
            )
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return self.reply(answer.status, dict(answer.headers), answer.read())
            except urllib.error.HTTPError as error:
                return self.reply(error.code, dict(error.headers), error.read())

        def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name in ("Content-Type", "Inference-Header-Content-Length"):
                if value := {n.lower(): v for n, v in headers.items()}.get(name.lower()):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = answer

        def do_POST(self) -> None:
            self.answer(self.rfile.read(int(self.headers["Content-Length"] or 0)))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca.pem", tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server, Proxy
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_tls_and_a_token(built: Project, app: Path, tmp_path: Path, guarded: Any) -> None:  # noqa: F811
    front, proxy = guarded
    (tmp_path / "auth.txt").write_text("Authorization: Bearer sesame\n")
    with running(app, configured(built, tmp_path)) as server:
        proxy.behind = server.port
        call = (
            "conform",
            "cnn.bundle.tar",
            "--endpoint",
            f"https://localhost:{front.server_port}",
            *HERE[2:],
            "--level",
            "L3",
            "--json",
        )
        trusted = ("--endpoint-ca", tmp_path / "ca.pem")
        result = built.run(*call, *trusted, "--header-file", tmp_path / "auth.txt")
        assert result["verdict"]["ok"], result["cells"][0]["reason"]
        assert "sesame" not in json.dumps(result)
        assert built.run(*call, *trusted, PACKAGER_ENDPOINT_AUTHORIZATION="Bearer sesame")["verdict"]["ok"]
        stranger = built.run(*call, *trusted, code=1)["cells"][0]
        assert "who are you?" in stranger["reason"]
        unknown = built.run(*call, "--header-file", tmp_path / "auth.txt", code=1)["cells"][0]
        assert "CERTIFICATE_VERIFY_FAILED" in unknown["reason"]

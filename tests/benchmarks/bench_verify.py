# SPDX-License-Identifier: Apache-2.0
"""What judging a bundle's statements costs beyond hashing its files, in process, and beside the tools others use.

The bundle carries seven statements: by a key, a certificate with a time stamp, and a Sigstore identity (the vectors of
the newest release). Aim: all of them within 50 ms. Whole processes of `sigstore` and `model_signing` are timed beside
ours, because that is how they are used; they check one statement each.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from packager.bundle.bundle import open_bundle
from packager.trust import certificates, file, keys, model
from packager.trust.model import CertificateSigner, KeylessSigner, KeySigner, Trust
from packager.trust.verify import require_signature
from tests.support import environments
from tests.support.tampering import no_store

VECTORS = Path(__file__).parents[2] / "conformance" / "vectors" / "v1"
RUNS = 30


def median(call: Callable[[], object], runs: int = RUNS, clock: Callable[[], float] = time.process_time) -> float:
    """Return the median of some runs in milliseconds, after one to warm up; CPU time, so that a busy machine counts not."""
    call()
    times = []
    for _ in range(runs):
        started = clock()
        call()
        times.append((clock() - started) * 1000)
    return statistics.median(times)


def main() -> None:
    folder = max(VECTORS.iterdir())
    expected = json.loads((folder / "expected.json").read_text())
    at, who = model.parse_time(expected["at"]), expected["identity"]
    everyone = file.accept(file.parse((folder / "acme.trust").read_bytes(), "t"), None, at)
    root = {"local": (folder / "trusted_root.json").read_bytes()}
    trusts = {
        "key": Trust((KeySigner("k", keys.load_public(folder / "release.pub")),)),
        "certificate": Trust(
            (CertificateSigner("c", tuple(certificates.load(folder / "root.pem")), who["certificate"]),),
            timestamping=tuple(certificates.load(folder / "tsa.pem")),
        ),
        "keyless": Trust((KeylessSigner("i", who["keyless"], who["issuer"], "local"),), instances=root),
        "trust file": everyone,
    }
    bundle = open_bundle(str(folder / "bundle.tar"), no_store)
    for name, believed in trusts.items():
        print(f"in process, {name}: {median(lambda t=believed: require_signature(bundle, t, now=at)):.1f} ms")  # type: ignore[misc]
    opening = median(lambda: open_bundle(str(folder / "bundle.tar"), no_store))
    whole = median(lambda: require_signature(bundle, everyone, now=at))
    print(f"opening the bundle: {opening:.1f} ms; aim 50 ms for its statements: {whole / 50:.2f} of it")
    processes(folder, who)
    assert whole < 50, "aim: all statements of a bundle within 50 ms"


def processes(folder: Path, who: dict[str, str]) -> None:
    """Time whole processes, ours and others'."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        run = [sys.executable, "-m", "packager"]
        made = subprocess.run(
            [*run, "unpack", folder / "bundle.tar", work / "tree", "--json"], check=True, capture_output=True
        )
        listed = subprocess.run([*run, "inspect", folder / "bundle.tar", "--json"], check=True, capture_output=True)
        statements = json.loads(listed.stdout)["statements"]
        blobs = work / "tree/.packager/blobs/sha256"
        logged = next(
            blobs / s["digest"][7:]
            for s in statements
            if who["keyless"] in s["claim"] and "bundle" in s["predicateType"]
        )
        plain = next(p for p in json.loads(made.stdout)["model_signing"] if b'"hint"' in Path(p).read_bytes())
        manifest = blobs / json.loads(listed.stdout)["digest"][7:]
        config = work / "trust.json"
        kind = "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json"
        root = json.loads((folder / "trusted_root.json").read_text())
        service = [
            {
                "url": "http://127.0.0.1:1",
                "majorApiVersion": 1,
                "operator": "o",
                "validFor": {"start": "2026-01-01T00:00:00Z"},
            }
        ]
        signing = {
            "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
            "caUrls": service,
            "oidcUrls": service,
            "rekorTlogUrls": service,
            "tsaUrls": service,
            "rekorTlogConfig": {"selector": "ANY"},
            "tsaConfig": {"selector": "ANY"},
        }
        config.write_text(json.dumps({"mediaType": kind, "trustedRoot": root, "signingConfig": signing}))
        ours_key = [*run, "verify", work / "tree", "--key", folder / "release.pub"]
        ours_keyless = [
            *run,
            "verify",
            work / "tree",
            "--identity",
            who["keyless"],
            "--issuer",
            who["issuer"],
            "--trust-config",
            folder / "trusted_root.json",
        ]
        theirs_key = [
            environments.model_signing(),
            "-m",
            "model_signing",
            "verify",
            "key",
            "--public_key",
            folder / "release.pub",
            "--signature",
            plain,
            work / "tree",
        ]
        theirs_keyless = [
            environments.sigstore(),
            "-m",
            "sigstore",
            "--trust-config",
            config,
            "verify",
            "identity",
            "--offline",
            "--cert-identity",
            who["keyless"],
            "--cert-oidc-issuer",
            who["issuer"],
            "--bundle",
            logged,
            manifest,
        ]
        for name, ours, theirs in (
            ("key, beside model_signing", ours_key, theirs_key),
            ("keyless, beside sigstore", ours_keyless, theirs_keyless),
        ):
            mine, other = (
                median(lambda c=c: subprocess.run(c, check=True, capture_output=True), 5, time.perf_counter)
                for c in (ours, theirs)
            )  # type: ignore[misc]
            print(f"process, {name}: ours {mine:.0f} ms, theirs {other:.0f} ms, ratio {mine / other:.2f}")


if __name__ == "__main__":
    main()

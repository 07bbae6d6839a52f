# SPDX-License-Identifier: Apache-2.0
"""Verifiers of signatures, ours and others, behind one question: does this tool accept this case?

Each runs unmodified, in a process or environment of its own; a registry in memory serves bundle and image to those that
read registries. What a tool cannot judge is written down with the reason, and held against what it does.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packager.bundle.bundle import open_bundle, read
from packager.errors import PackagerError
from packager.events import ignore
from packager.formats import dsse, intoto
from packager.release.image_verification import verify_image
from packager.release.sign import sign
from packager.transport.copy import copy, save
from packager.transport.registry import publish, reference
from packager.transport.registry.medium import RegistryBundle
from packager.transport.registry.wire import Settings
from packager.trust import oms
from packager.trust.verifier import Verifier
from packager.trust.verify import verify
from tests.matrix.signature_attacks import CI, KINDS, Case, Cell, Makers
from tests.support import environments, images, pki
from tests.support.stub_registry import Stub
from tests.support.tampering import no_store

JS_PACKAGES = ("@sigstore/bundle@5.0.1", "@sigstore/protobuf-specs@0.5.2", "@sigstore/verify@4.1.3")
TYPES = {
    "bundle": intoto.BUNDLE_PREDICATE,
    "image": intoto.IMAGE_PREDICATE,
    "directory": intoto.MODEL_SIGNING_PREDICATE,
}
NAMES = {"bundle": "models/tiny", "image": "serving/tiny"}


@dataclass(frozen=True)
class Answer:
    """What a tool said; `cannot` is why it cannot judge such a case."""

    accepted: bool
    reason: str = ""
    cannot: str = ""


@dataclass
class Place:
    """Where things are: files of the trusted signers in `folder`, bundle and image in a registry."""

    makers: Makers
    folder: Path
    stub: Stub

    def prepare(self) -> None:
        """Put the image and the bundle into the registry, and write what verifiers trust."""
        makers, stage = self.makers, self.makers.stage
        image = images.Image([images.tar({"srv/start.py": b"#"})], {"Labels": {}})
        makers.image = image.push(self.stub, NAMES["image"], "1.0.0").removeprefix("sha256:")
        there = reference.parse(f"oci://{self.stub.host}/{NAMES['bundle']}:1.0.0")
        copy(stage.bundle, publish.open_registry(there, Settings()))
        for kind in KINDS:
            save(sign(stage.bundle, makers.trusted(kind)), self.folder / f"{kind}.layout")
        (self.folder / "key.pub").write_bytes(stage.key.public.pem)
        (self.folder / "p384.pub").write_bytes(makers.wide.public.pem)
        (self.folder / "root.pem").write_bytes(stage.corp.pem)
        (self.folder / "certificate.json").write_text(json.dumps(self._corporation()))
        (self.folder / "keyless.json").write_bytes(stage.instance.trusted_root.read_bytes())

    def _corporation(self) -> Any:
        """Return the authority of the certificates as a trusted root, with the time stamps of the instance."""
        stage = self.makers.stage
        root = json.loads(stage.instance.trusted_root.read_bytes())
        chain = {"certificates": [{"rawBytes": dsse.encode(item.der)} for item in (stage.middle, stage.corp)]}
        authority = {**root["certificateAuthorities"][0], "certChain": chain, "uri": "https://ca.corp.example"}
        authority["validFor"] = {"start": "2000-01-01T00:00:00Z"}
        return {**root, "certificateAuthorities": [authority], "tlogs": [], "ctlogs": []}

    @contextmanager
    def attached(self, case: Case) -> Iterator[str]:
        """Attach the document of a case to what it is about, for a while; yield the address without scheme."""
        name, before, blobs = NAMES[case.thing], dict(self.stub.manifests), dict(self.stub.blobs)
        kind, data = self.stub.manifests[name, "1.0.0"]
        digest = next(
            key for (where, key), row in before.items() if where == name and row == (kind, data) and ":" in key
        )
        value = {
            "schemaVersion": 2,
            "mediaType": images.MANIFEST,
            "artifactType": dsse.BUNDLE,
            "config": images.put(self.stub, name, b"{}", "application/vnd.oci.empty.v1+json"),
            "layers": [images.put(self.stub, name, case.document, dsse.BUNDLE)],
            "subject": {"mediaType": kind, "digest": digest, "size": len(data)},
        }
        images.put_manifest(self.stub, name, "attached", value)
        try:
            yield f"{self.stub.host}/{name}:1.0.0"
        finally:
            self.stub.manifests, self.stub.blobs = before, blobs

    @contextmanager
    def written(self, case: Case) -> Iterator[tuple[Path, Path]]:
        """Write the files of a case, and its document beside them; yield both."""
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            root, document = Path(name) / "model", Path(name) / "model.sig"
            for path, data in case.files.items():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(data)
            document.write_bytes(case.document)
            yield root, document


class Tool:
    """A verifier. `cannot` says why it judges no such thing, or no such attack; the tool is then not counted."""

    name = ""
    version = ""

    def __init__(self, place: Place) -> None:
        self.place = place

    def cannot(self, case: Case) -> str:
        return ""

    def judge(self, case: Case) -> Answer:
        raise NotImplementedError

    def close(self) -> None:
        """End what runs."""


class Ours(Tool):
    """The verifier of this program: of a bundle and an image in a registry, of a directory with its signature."""

    name, version = "packager", "this version"

    def judge(self, case: Case) -> Answer:
        trust, now = self.place.makers.trust(case.kind), self.place.makers.stage.now
        try:
            if case.thing == "directory":
                with self.place.written(case) as (root, document):
                    oms.verify_directory(root, document.read_bytes(), trust, now, None)
            else:
                with self.place.attached(case) as there:
                    self._attached(case, there, Verifier(trust, now))
        except PackagerError as error:
            return Answer(False, f"{type(error).__name__}: {error.message}")
        return Answer(True)

    def _attached(self, case: Case, there: str, verifier: Verifier) -> None:
        if case.thing == "bundle":
            bundle = read(RegistryBundle(reference.parse(f"oci://{there}"), Settings(), ignore))
            found = verify(bundle, verifier.trust, now=verifier.now)
        else:
            sound = str(self.place.folder / f"{case.kind}.layout")
            found = verify_image(
                f"oci://{there}", verifier, Settings(), lambda ref: open_bundle(ref, no_store), made_of=sound
            ).bundle
        found.raise_for_failure()


@dataclass
class Process:
    """A program that answers one line of JSON for each line of JSON."""

    command: list[str]
    folder: Path
    running: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        keep = ("PATH", "LANG", "TMPDIR")
        variables = {name: os.environ[name] for name in keep if name in os.environ} | {"HOME": str(self.folder)}
        self.running = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=self.folder, env=variables
        )

    def ask(self, request: Any) -> Answer:
        assert self.running.stdin and self.running.stdout
        self.running.stdin.write(json.dumps(request) + "\n")
        self.running.stdin.flush()
        line = self.running.stdout.readline()
        answer = json.loads(line)
        return Answer(answer["accepted"], answer.get("reason", ""))

    def close(self) -> None:
        assert self.running.stdin
        self.running.stdin.close()
        self.running.wait(10)


FILES_UNREAD = "reads no files"
_NO_NAME, _NO_PERIOD = "asks for no name in a certificate", "asks for no period of a certificate"
_NO_PURPOSE = "asks for no purpose of a certificate"


class SigstoreJs(Tool):
    """@sigstore/verify from npm. What it verified is compared by its caller, twenty lines in `sigstore_js.mjs`."""

    name = "sigstore-js"
    unjudged: Mapping[str, str] = {
        "unknown-version": "takes any version of the format that begins as Sigstore's",
        "certificate-for-servers": _NO_PURPOSE,
    }

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        modules = environments.node_with(*JS_PACKAGES)
        self.version = json.loads((modules / "@sigstore/verify/package.json").read_text())["version"]
        script = Path(__file__).with_name("sigstore_js.mjs")
        self.process = Process([str(shutil.which("node")), str(script), str(modules.parent)], place.folder)

    def cannot(self, case: Case) -> str:
        if case.kind == "p384":
            return "hashes with SHA-256 whatever the key"
        if (case.thing, case.kind) == ("directory", "certificate"):
            return "refuses a chain inside version 0.3, as OpenSSF Model Signing has it"
        if case.thing == "directory" and case.group in ("files", "statement"):
            return FILES_UNREAD
        return self.unjudged.get(case.name, "")

    def judge(self, case: Case) -> Answer:
        return self.process.ask(self.request(case))

    def request(self, case: Case) -> dict[str, Any]:
        """Return the question: the document, whom to trust, and the statement that is looked for."""
        place, makers = self.place, self.place.makers
        subject = makers.image if case.thing == "image" else makers.stage.bundle.digest.removeprefix("sha256:")
        made: dict[str, Any] = {
            "document": base64.b64encode(case.document).decode(),
            "keys": {},
            "root": {"certificateAuthorities": [], "timestampAuthorities": [], "tlogs": [], "ctlogs": []},
            "thresholds": {"tlogThreshold": 0, "ctlogThreshold": 0, "timestampThreshold": 0},
            "expect": None if case.thing == "directory" else {"type": TYPES[case.thing], "subject": subject},
        }
        if case.kind in ("key", "p384"):
            key = (makers.stage.key if case.kind == "key" else makers.wide).public
            return made | {"keys": {key.fingerprint: key.pem.decode()}}
        made["root"] = json.loads((place.folder / f"{case.kind}.json").read_bytes())
        if case.kind == "certificate":
            return made | {"identity": pki.EMAIL, "thresholds": {**made["thresholds"], "timestampThreshold": 1}}
        one = {"tlogThreshold": 1, "ctlogThreshold": 1, "timestampThreshold": 1}
        return made | {"identity": CI, "issuer": makers.stage.instance.url, "thresholds": one}

    def close(self) -> None:
        self.process.close()


_SIGSTORE = """
import base64, json, sys
from sigstore.models import Bundle, TrustedRoot
from sigstore.verify import Verifier, policy
verifier = Verifier(trusted_root=TrustedRoot.from_file(sys.argv[1]))
who = policy.Identity(identity=sys.argv[2], issuer=sys.argv[3])
for line in sys.stdin:
    request, answer = json.loads(line), {"accepted": True}
    try:
        kind, payload = verifier.verify_dsse(Bundle.from_json(base64.b64decode(request["document"])), who)
        if request["expect"]:
            statement = json.loads(payload)
            digests = [row["digest"].get("sha256") for row in statement["subject"]]
            assert kind == "application/vnd.in-toto+json", "caller: no in-toto statement"
            assert statement["predicateType"] == request["expect"]["type"], "caller: of another type"
            assert digests == [request["expect"]["subject"]], "caller: about something else"
    except Exception as error:
        answer = {"accepted": False, "reason": f"{type(error).__name__}: {error}"[:200]}
    print(json.dumps(answer), flush=True)
"""


class SigstorePython(Tool):
    """`sigstore` from PyPI: identities alone."""

    name, version = "sigstore-python", "4.5.1"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        url = place.makers.stage.instance.url
        command = [str(environments.sigstore()), "-I", "-c", _SIGSTORE, str(place.folder / "keyless.json"), CI, url]
        self.process = Process(command, place.folder)

    def cannot(self, case: Case) -> str:
        if case.kind != "keyless":
            return "knows identities alone"
        if case.thing == "directory" and case.group in ("files", "statement"):
            return FILES_UNREAD
        return ""

    def judge(self, case: Case) -> Answer:
        makers = self.place.makers
        subject = makers.image if case.thing == "image" else makers.stage.bundle.digest.removeprefix("sha256:")
        expect = None if case.thing == "directory" else {"type": TYPES[case.thing], "subject": subject}
        return self.process.ask({"document": base64.b64encode(case.document).decode(), "expect": expect})

    def close(self) -> None:
        self.process.close()


_MODEL_SIGNING = """
import json, pathlib, sys
from model_signing import verifying
for line in sys.stdin:
    request, answer = json.loads(line), {"accepted": True}
    try:
        config = verifying.Config()
        if request["kind"] in ("key", "p384"):
            config.use_elliptic_key_verifier(public_key=request["key"])
        elif request["kind"] == "certificate":
            config.use_certificate_verifier(certificate_chain=[request["root"]])
        else:
            config.use_sigstore_verifier(
                identity=request["identity"], oidc_issuer=request["issuer"], trust_config=pathlib.Path(request["config"])
            )
        config.verify(request["model"], request["signature"])
    except BaseException as error:
        answer = {"accepted": False, "reason": f"{type(error).__name__}: {error}"[:200]}
    print(json.dumps(answer), flush=True)
"""


class ModelSigning(Tool):
    """OpenSSF `model_signing` from PyPI: directories alone."""

    name, version = "model_signing", "1.1.1"
    unjudged: Mapping[str, str] = {
        "certificate-of-a-colleague": _NO_NAME,
        "certificate-name-with-a-suffix": _NO_NAME,
        "certificate-without-names": _NO_NAME,
        "certificate-expired": _NO_PERIOD,
        "certificate-not-yet-valid": _NO_PERIOD,
        "certificate-for-servers": _NO_PURPOSE,
    }

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.process = Process([str(environments.model_signing()), "-I", "-c", _MODEL_SIGNING], place.folder)

    def cannot(self, case: Case) -> str:
        if case.thing != "directory":
            return "reads directories alone"
        return self.unjudged.get(case.name, "") if case.kind == "certificate" else ""

    def judge(self, case: Case) -> Answer:
        if case.thing != "directory":
            return Answer(False, "")
        folder, instance = self.place.folder, self.place.makers.stage.instance
        with self.place.written(case) as (root, document):
            return self.process.ask(
                {
                    "kind": case.kind,
                    "key": str(folder / f"{case.kind}.pub"),
                    "root": str(folder / "root.pem"),
                    "identity": CI,
                    "issuer": instance.url,
                    "config": str(instance.trust_config),
                    "model": str(root),
                    "signature": str(document),
                }
            )

    def close(self) -> None:
        self.process.close()


class Cosign(Tool):
    """cosign, on bundle and image in the registry: `verify-attestation` with the type of the statement."""

    name = "cosign"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.program = shutil.which("cosign")
        if self.program is None:
            raise LookupError("cosign is not on PATH")
        told = subprocess.run([self.program, "version", "--json"], capture_output=True, text=True, check=True)
        self.version = json.loads(told.stdout)["gitVersion"].removeprefix("v")

    def cannot(self, case: Case) -> str:
        return "reads no directories" if case.thing == "directory" else ""

    def judge(self, case: Case) -> Answer:
        if case.thing == "directory":
            return Answer(False, "")
        with self.place.attached(case) as there:
            command = [str(self.program), "verify-attestation", "--type", TYPES[case.thing], *self.options(case), there]
            variables = {"PATH": os.environ["PATH"], "HOME": str(self.place.folder)}
            done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        return Answer(done.returncode == 0, (done.stderr.strip().splitlines() or [""])[-1][:200])

    def options(self, case: Case) -> list[str]:
        folder, common = self.place.folder, ["--allow-http-registry"]
        if case.kind in ("key", "p384"):
            wide = ["--signature-digest-algorithm", "sha384"] if case.kind == "p384" else []
            return [*common, "--insecure-ignore-tlog", "--key", str(folder / f"{case.kind}.pub"), *wide]
        root = ["--trusted-root", str(folder / f"{case.kind}.json"), "--use-signed-timestamps"]
        if case.kind == "certificate":
            skip = ["--insecure-ignore-tlog", "--insecure-ignore-sct", "--certificate-oidc-issuer-regexp", ".*"]
            return [*common, *root, *skip, "--certificate-identity", pki.EMAIL]
        issuer = self.place.makers.stage.instance.url
        return [*common, *root, "--certificate-identity", CI, "--certificate-oidc-issuer", issuer]


TOOLS: Mapping[str, Callable[[Place], Tool]] = {
    tool.name: tool for tool in (Ours, SigstoreJs, SigstorePython, ModelSigning, Cosign)
}


def cells(makers: Makers, things: tuple[str, ...], kinds: tuple[str, ...]) -> Iterator[Cell]:
    """Yield the cells of the matrix, one thing after the other."""
    for thing in things:
        for kind in kinds:
            yield Cell(makers, thing, kind)

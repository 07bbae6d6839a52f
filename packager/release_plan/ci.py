# SPDX-License-Identifier: Apache-2.0
"""Write the files by which a CI system releases the models of a release file: pinned, and without any secret in them.

All of them do the same: a change request locks, builds and judges (`--until policy`); a push to the main branch
performs every task. The store is kept between runs, and the report is uploaded whatever the outcome.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from string import Template
from urllib.parse import urlsplit

from packager import DISTRIBUTION, __version__
from packager.errors import UsageError, did_you_mean
from packager.release_plan.release_file import Model, list_signers

SYSTEMS: Mapping[str, tuple[str, str]] = {
    "github": ("github.yml", ".github/workflows/release-models.yml"),
    "gitlab": ("gitlab.yml", ".gitlab-ci.yml"),
    "tekton": ("tekton.yaml", "tekton/release-models.yaml"),
    "jenkins": ("Jenkinsfile", "Jenkinsfile"),
}
"""By name: the template, and where the system looks for the file."""
ACTION = ".github/actions/release/action.yml"
"""Where the action is in our repository."""
COPY = ".github/actions/release-models/action.yml"
"""Where its copy is in the repository of who has a copy."""
ACTIONS: Mapping[str, tuple[str, str]] = {
    "actions/checkout": ("08c6903cd8c0fde910a37f88322edcfb5dd907a8", "v5.0.0"),
    "actions/setup-python": ("e797f83bcb11b83ae66e0230d6156d7c80228e7c", "v6.0.0"),
    "actions/cache": ("0057852bfaa89a56745cba8c7296529d2fc39830", "v4.3.0"),
    "actions/upload-artifact": ("330a01c490aca151604b8cf639adc76d48f6c5d4", "v5.0.0"),
    "github/codeql-action": ("5d4e8d1aca955e8d8589aabd499c5cae939e33c7", "v4.31.9"),
}
"""The actions of GitHub that are used: the commit, and its name for people."""
_SAFE = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._/-]*")  # in YAML, a shell and a string of Groovy alike
_EXTRAS = re.compile(r"[a-z0-9-]+(,[a-z0-9-]+)*")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9./:_-]*@sha256:[0-9a-f]{64}")
_ACTION = re.compile(r"[A-Za-z0-9-]+/[A-Za-z0-9._-]+@[0-9a-f]{40}")
_HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]+)?")
_GITHUB = "ghcr.io"
_WHY = "`$/` needs github.com and a runner of 2026"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a CI file is written for: the release file, the branch that releases, our extras, the image.

    `action` is a repository of GitHub that has our action, with the commit; without it a copy is written.
    """

    file: str
    branch: str = "main"
    extras: str = "build"
    image: str | None = None
    action: str | None = None

    def check(self, system: str) -> None:
        """Raise UsageError for what cannot stand in such a file, and for an image that is not pinned."""
        for what, text, pattern in (
            ("file", self.file, _SAFE),
            ("branch", self.branch, _SAFE),
            ("extras", self.extras, _EXTRAS),
        ):
            if not pattern.fullmatch(text) or ".." in text:
                raise UsageError(
                    f"{what} `{text:.80}` cannot stand in a file of CI", hint="letters, digits, `.`, `_`, `-`"
                )
        if self.action is not None and (system != "github" or not _ACTION.fullmatch(self.action)):
            raise UsageError(
                f"`{self.action:.80}` is no action of a commit that `{system}` can use",
                hint="give --action OWNER/NAME@COMMIT for github, the commit in its 40 digits",
            )
        if system != "github" and (self.image is None or not _IMAGE.fullmatch(self.image)):
            raise UsageError(
                f"`{system}` needs an image with its digest",
                hint="give --image NAME@sha256:…, a Debian with Python and pip; "
                "`skopeo inspect --format '{{.Digest}}' docker://docker.io/library/python:3.11-slim` prints the digest",
            )


@dataclass(frozen=True, slots=True)
class CiFile:
    """A file of a CI system: where the system looks for it, its text, and the secrets that it reads.

    `beside` are the files that it needs in the same repository: path and text.
    """

    path: str
    text: str
    reads: tuple[str, ...]
    beside: tuple[tuple[str, str], ...] = ()


class _Text(Template):
    """A template whose placeholders no CI system and no shell writes."""

    delimiter = "@@"
    braceidpattern = r"[a-z]+"
    idpattern = r"(?!)"


def render(system: str, wanted: Wanted, models: Iterable[Model]) -> CiFile:
    """Return the file of a CI system. Raises UsageError."""
    if system not in SYSTEMS:
        raise UsageError(f"CI system `{system:.60}` is unknown", hint=did_you_mean(system, SYSTEMS))
    wanted.check(system)
    models = tuple(models)
    schemes = {uri.partition(":")[0] for uri in list_signers(models)}
    hosts = sorted({host for model in models if (host := _host(model.settings.push))})
    name, path = SYSTEMS[system]
    parts = {
        "version": __version__,
        "file": wanted.file,
        "branch": wanted.branch,
        "image": wanted.image or "",
        "extras": wanted.extras,
        "action": wanted.action or "",
        "requirement": f"{DISTRIBUTION}[{wanted.extras}]=={__version__}",
    }
    more = {"github": _github, "gitlab": _gitlab, "tekton": _tekton, "jenkins": _jenkins}[system]
    own = more(parts, hosts, keyless="keyless" in schemes, key=bool(schemes - {"keyless"}))
    beside = ((COPY, render_action()),) if system == "github" and wanted.action is None else ()
    return CiFile(path, _fill(name, parts | own), secrets_of(system, models), beside)


def render_action() -> str:
    """Return the action of GitHub that releases models: the steps of every workflow that releases there."""
    used = {
        "python": "actions/setup-python",
        "restore": "actions/cache/restore",
        "save": "actions/cache/save",
        "sarif": "github/codeql-action/upload-sarif",
        "upload": "actions/upload-artifact",
    }
    return _fill("action.yml", {key: _action(name) for key, name in used.items()})


def _fill(name: str, parts: Mapping[str, str]) -> str:
    return _Text(resources.files("packager.templates").joinpath("ci", name).read_text("utf-8")).substitute(parts)


def secrets_of(system: str, models: Iterable[Model]) -> tuple[str, ...]:
    """Return the names of the secrets that the file of a system reads."""
    models = tuple(models)
    key = any(uri.partition(":")[0] != "keyless" for uri in list_signers(models))
    hosts = {host for model in models if (host := _host(model.settings.push))}
    passphrase, login = {
        "github": (("PACKAGER_PASSPHRASE",), () if _GITHUB in hosts else ("REGISTRY_USER", "REGISTRY_PASSWORD")),
        "gitlab": (("PACKAGER_PASSPHRASE",), ("REGISTRY_USER", "REGISTRY_PASSWORD")),
        "tekton": (("packager/passphrase",), ("docker-config",)),
        "jenkins": (("packager-passphrase",), ("packager-registry",)),
    }[system]
    return (*(passphrase if key else ()), *(login if hosts else ()))


def _host(address: str | None) -> str | None:
    """Return the registry that needs a login, None of a bucket or an address that is none."""
    if not address or not address.startswith("oci://"):
        return None
    host = urlsplit(address).netloc
    return host if _HOST.fullmatch(host) else None


def _action(name: str) -> str:
    commit, version = ACTIONS["/".join(name.split("/")[:2])]
    return f"{name}@{commit} # {version}"


def _credentials(hosts: Iterable[str]) -> str:
    """Return shell commands that write what `docker login` writes; the values come from the environment."""
    listed = ",".join(f'"{host}":{{"auth":"%s"}}' for host in hosts)
    auth = '"$(printf \'%s:%s\' "$REGISTRY_USER" "$REGISTRY_PASSWORD" | base64 -w 0)"'
    words = " ".join(auth for _ in hosts)
    return f"mkdir -p ~/.docker && umask 077 && printf '{{\"auths\":{{{listed}}}}}' {words} > ~/.docker/config.json"


def _github(parts: Mapping[str, str], hosts: list[str], *, keyless: bool, key: bool) -> dict[str, str]:
    ours = _GITHUB in hosts
    permissions = "      id-token: write # to sign as this workflow\n" if keyless else ""
    permissions += "      packages: write # to push to this organisation's registry\n" if ours else ""
    inputs = {"registry": " ".join(hosts)} if hosts else {}
    if hosts:
        inputs["registry-user"] = "${{ github.actor }}" if ours else "${{ secrets.REGISTRY_USER }}"
        inputs["registry-password"] = "${{ secrets.GITHUB_TOKEN }}" if ours else "${{ secrets.REGISTRY_PASSWORD }}"
    if key:
        inputs["passphrase"] = "${{ secrets.PACKAGER_PASSPHRASE }}"  # noqa: S105 - the name of one
    owner, _, commit = parts["action"].partition("@")
    return {
        "checkout": _action("actions/checkout"),
        "action": f"{owner}/{_folder(ACTION)}@{commit}" if owner else f"./{_folder(COPY)}",
        "because": f"packager {__version__}" if owner else f"zizmor: ignore[self-repository] - {_WHY}",
        "source": f"extras: {parts['extras']}" if owner else f"packager: '{parts['requirement']}'",
        "permissions": permissions,
        "inputs": "".join(f"          {name}: {value}\n" for name, value in inputs.items()),
    }


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _gitlab(parts: Mapping[str, str], hosts: list[str], *, keyless: bool, key: bool) -> dict[str, str]:
    tokens = "  id_tokens:\n    PACKAGER_IDENTITY_TOKEN:\n      aud: sigstore\n" if keyless else ""
    return {"tokens": tokens, "login": f"    - {_quoted(_credentials(hosts))}\n" if hosts else ""}


def _tekton(parts: Mapping[str, str], hosts: list[str], *, keyless: bool, key: bool) -> dict[str, str]:
    secrets = """        - name: PACKAGER_PASSPHRASE
          valueFrom:
            secretKeyRef:
              name: packager
              key: passphrase
"""
    return {"secrets": secrets if key else ""}


def _jenkins(parts: Mapping[str, str], hosts: list[str], *, keyless: bool, key: bool) -> dict[str, str]:
    rows = ["        PACKAGER_PASSPHRASE = credentials('packager-passphrase')\n"] if key else []
    if hosts:
        rows += ["        REGISTRY = credentials('packager-registry')\n"]
    command = (
        _credentials(hosts).replace("$REGISTRY_USER", "$REGISTRY_USR").replace("$REGISTRY_PASSWORD", "$REGISTRY_PSW")
    )
    login = "        sh '''" + command.replace("\\", "\\\\") + "'''\n"
    return {
        "secrets": f"      environment {{\n{''.join(rows)}      }}\n" if rows else "",
        "login": login if hosts else "",
    }


def _quoted(text: str) -> str:
    """Return text as a scalar of YAML in single quotes."""
    return "'" + text.replace("'", "''") + "'"

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
ACTIONS: Mapping[str, tuple[str, str]] = {
    "actions/checkout": ("11bd71901bbe5b1630ceea73d27597364c9af683", "v4.2.2"),
    "actions/setup-python": ("a26af69be951a213d495a4c3e4e4022e16d87065", "v5.6.0"),
    "actions/cache": ("5a3ec84eff668545956fd18022155c47e93e2684", "v4.2.3"),
    "actions/upload-artifact": ("ea165f8d65b6e75b540449e92b4886f43607fa02", "v4.6.2"),
}
"""The actions of GitHub that are used: the commit, and its name for people."""
_SAFE = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._/-]*")  # in YAML, a shell and a string of Groovy alike
_EXTRAS = re.compile(r"[a-z0-9-]+(,[a-z0-9-]+)*")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9./:_-]*@sha256:[0-9a-f]{64}")
_HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]+)?")
_GITHUB = "ghcr.io"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a CI file is written for: the release file, the branch that releases, our extras, the image."""

    file: str
    branch: str = "main"
    extras: str = "build"
    image: str | None = None

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
        if system != "github" and (self.image is None or not _IMAGE.fullmatch(self.image)):
            raise UsageError(
                f"`{system}` needs an image with its digest",
                hint="give --image NAME@sha256:…, a Debian with Python and pip; "
                "`skopeo inspect --format '{{.Digest}}' docker://docker.io/library/python:3.11-slim` prints the digest",
            )


@dataclass(frozen=True, slots=True)
class CiFile:
    """A file of a CI system: where the system looks for it, its text, and the secrets that it reads."""

    path: str
    text: str
    reads: tuple[str, ...]


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
    text = resources.files("packager.templates").joinpath("ci", name).read_text("utf-8")
    parts = {
        "version": __version__,
        "file": wanted.file,
        "branch": wanted.branch,
        "image": wanted.image or "",
        "requirement": f"{DISTRIBUTION}[{wanted.extras}]=={__version__}",
    }
    more = {"github": _github, "gitlab": _gitlab, "tekton": _tekton, "jenkins": _jenkins}[system]
    filled = _Text(text).substitute(
        parts | more(parts, hosts, keyless="keyless" in schemes, key=bool(schemes - {"keyless"}))
    )
    return CiFile(path, filled, secrets_of(system, models))


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
    key_of_cache = (
        "packager-${{ runner.os }}-${{ hashFiles('**/bundle.lock') }}-${{ github.run_id }}-${{ github.run_attempt }}"
    )
    setup = f"""      - uses: {_action("actions/checkout")}
        with:
          persist-credentials: false
      - uses: {_action("actions/setup-python")}
        with:
          python-version: "3.11"
      - name: what confines workers
        run: |
          sudo apt-get update -qq
          sudo apt-get install -y -qq --no-install-recommends bubblewrap
          sudo sysctl -e -w kernel.apparmor_restrict_unprivileged_userns=0
      - run: pip install --quiet '{parts["requirement"]}'
      - uses: {_action("actions/cache/restore")}
        with:
          path: .packager-store
          key: {key_of_cache}
          restore-keys: |
            packager-${{{{ runner.os }}}}-${{{{ hashFiles('**/bundle.lock') }}}}-
            packager-${{{{ runner.os }}}}-"""
    results = f"""      - if: always() # what was released is remembered, also where something failed
        uses: {_action("actions/cache/save")}
        with:
          path: .packager-store
          key: {key_of_cache}
      - if: always()
        uses: {_action("actions/upload-artifact")}
        with:
          name: release
          path: out/
          if-no-files-found: ignore
"""
    permissions = "      id-token: write # to sign as this workflow\n" if keyless else ""
    ours = _GITHUB in hosts
    permissions += "      packages: write # to push to this organisation's registry\n" if ours else ""
    user = "github.actor" if ours else "secrets.REGISTRY_USER"
    password = "secrets.GITHUB_TOKEN" if ours else "secrets.REGISTRY_PASSWORD"
    login = f"""      - name: credentials of the registry
        env:
          REGISTRY_USER: ${{{{ {user} }}}}
          REGISTRY_PASSWORD: ${{{{ {password} }}}}
        run: {_quoted(_credentials(hosts))}
"""
    secrets = "        env:\n          PACKAGER_PASSPHRASE: ${{ secrets.PACKAGER_PASSPHRASE }}\n"
    return {
        "setup": setup,
        "results": results,
        "permissions": permissions,
        "login": login if hosts else "",
        "secrets": secrets if key else "",
    }


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

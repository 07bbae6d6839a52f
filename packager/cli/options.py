# SPDX-License-Identifier: Apache-2.0
"""Options that several verbs share, and what they mean; the only reader of the environment besides `cli/`."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from packager.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from packager.bundle.bundle import Bundle
    from packager.bundle.readers import Medium
    from packager.events import OnEvent
    from packager.store.store import Store
    from packager.transport.registry.repository import Repository
    from packager.transport.registry.wire import Settings
    from packager.trust.keys import PublicKey
OUTPUT = "write the bundle there, a directory or .tar file; a BUNDLE that is itself a file stays as it is"


def common(parser: argparse.ArgumentParser) -> None:
    """Add what every verb understands."""
    group = parser.add_argument_group("common options")
    group.add_argument("--json", action="store_true", help="print exactly one JSON document on stdout")
    group.add_argument("--quiet", action="store_true", help="print no progress, only the result and errors")
    group.add_argument("--store", type=Path, metavar="DIR", help="local store (default: $PACKAGER_STORE)")
    group.add_argument(
        "--jobs",
        type=_positive,
        default=parser.get_default("jobs") or 1,
        metavar="N",
        help="steps or transfers to run at the same time",
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text}")
    return number


def bundle(parser: argparse.ArgumentParser) -> None:
    """Add the BUNDLE argument."""
    a_bundle(
        parser.add_argument(
            "bundle",
            metavar="BUNDLE",
            help="directory, installation, .bundle.tar, oci://host/name:tag, s3://bucket/name:version "
            "(or another place that fsspec reaches), or name:version in the store",
        )
    )
    registry(parser)


def a_bundle(action: argparse.Action) -> None:
    """Let a shell complete an argument that names a bundle."""
    from packager.cli import _completers

    _completers.completed(action, _completers.bundles)


def registry(parser: argparse.ArgumentParser) -> None:
    """Add how registries are reached; credentials come from Docker's and Podman's files, never from arguments."""
    group = parser.add_argument_group("registry options, for oci://…")
    group.add_argument("--registry-ca", type=Path, metavar="PEM", help="also trust this certificate authority")
    group.add_argument("--plain-http", action="store_true", help="allow a registry without TLS on another machine")


def registry_settings(args: argparse.Namespace) -> Settings:
    """Collect what the environment says about registries: credential files, proxies."""
    from urllib.request import getproxies, proxy_bypass

    from packager.transport.registry.wire import Settings

    proxies = getproxies()
    return Settings(
        credential_files=tuple(_credential_files()),
        environment=dict(os.environ),
        ca_file=args.registry_ca,
        plain_http=args.plain_http,
        proxy=lambda scheme, host: None if proxy_bypass(host) else proxies.get(scheme),
        sessions=store_directory(args) / "v1" / "uploads",
        jobs=args.jobs,
    )


def _credential_files() -> Iterator[Path]:
    """Yield where Podman and Docker keep credentials, the most explicit place first."""
    if explicit := os.environ.get("REGISTRY_AUTH_FILE"):
        yield Path(explicit)
    if folder := os.environ.get("DOCKER_CONFIG"):
        yield Path(folder) / "config.json"
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "containers" / "auth.json"
    with contextlib.suppress(UsageError):  # without a home there are none
        yield under_home("XDG_CONFIG_HOME", ".config") / "containers" / "auth.json"
        yield under_home("", ".docker") / "config.json"


def recipe(parser: argparse.ArgumentParser) -> None:
    """Add the RECIPE argument."""
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        nargs="?",
        type=Path,
        default=Path("bundle.yaml"),
        help="the recipe, or the directory that holds `bundle.yaml` (default: here)",
    )
    registry(parser)


def trust(parser: argparse.ArgumentParser, purpose: str = "whom to trust") -> None:
    """Add the options that say whom to trust; `_trust.Judge.of` reads them."""
    group = parser.add_argument_group(purpose)
    group.add_argument("--trust", type=Path, metavar="FILE", help="signed trust file, see `packager trust`")
    group.add_argument(
        "--key",
        type=Path,
        action="append",
        default=[],
        metavar="PUB",
        help="public key that must have signed; give it again for another one",
    )
    group.add_argument("--ca", type=Path, metavar="PEM", help="authority that issued the signing certificate")
    group.add_argument(
        "--identity", metavar="NAME", help="exact e-mail address, URI or DNS name in the signing certificate"
    )
    group.add_argument("--tsa-ca", type=Path, metavar="PEM", help="with --ca: require a time stamp of this authority")
    group.add_argument("--issuer", metavar="URL", help="with --identity: who vouches for it at a Sigstore instance")
    group.add_argument(
        "--trust-config",
        type=Path,
        metavar="FILE",
        help="with --issuer: the pinned root of a private Sigstore instance",
    )
    group.add_argument(
        "--state",
        type=Path,
        metavar="FILE",
        help="with --trust: where the newest versions seen are kept (default: $PACKAGER_STATE; "
        "`none` to remember nothing)",
    )


def admission(parser: argparse.ArgumentParser) -> None:
    """Add what decides whether a bundle from elsewhere gets its name in the local store."""
    trust(parser, "whom to trust; without any of these the bundle lies in quarantine, under its digest")
    parser.add_argument(
        "--replace", action="store_true", help="with one of these: another bundle of that name and version gives way"
    )


def wants_trust(args: argparse.Namespace) -> bool:
    """Tell whether a verb that may check signatures was asked to."""
    return bool(args.trust or args.key or args.ca or args.identity)


def secrets(parser: argparse.ArgumentParser, *, asks: bool = True) -> None:
    """Add where a passphrase comes from; it is never an argument, because arguments are public."""
    parser.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="file whose first line unlocks the key (else $PACKAGER_PASSPHRASE"
        f"{', else whoever is at the terminal' if asks else ''})",
    )


def passphrase(args: argparse.Namespace) -> bytes | None:
    """Return the passphrase from the file or the environment, or None."""
    if args.passphrase_file is not None:
        from packager.errors import UsageError

        try:
            return bytes(args.passphrase_file.read_bytes().split(b"\n", 1)[0])
        except OSError as error:
            raise UsageError(f"cannot read passphrase file `{args.passphrase_file}`: {error.strerror}") from None
    text = os.environ.get("PACKAGER_PASSPHRASE")
    return text.encode() if text else None


def secret(args: argparse.Namespace, whose: str) -> Callable[[], bytes | None]:
    """Return what gives the passphrase or PIN of a key: the file, the environment, or the person at a terminal.

    A person is asked once for each key, however often a command needs it.
    """
    asked: dict[str, bytes | None] = vars(args).setdefault("asked", {})

    def ask() -> bytes | None:
        if whose not in asked:
            asked[whose] = find()
        return asked[whose]

    def find() -> bytes | None:
        given = passphrase(args)
        if given is not None or not (sys.stdin.isatty() and sys.stderr.isatty()):
            return given
        import getpass

        try:
            return getpass.getpass(f"passphrase of `{whose}`: ", sys.stderr).encode()
        except EOFError:
            return None

    return ask


def under_home(variable: str, folder: str) -> Path:
    """Return the directory that an environment variable names, else one below the user's home."""
    if named := os.environ.get(variable):
        return Path(named)
    try:
        return Path.home() / folder
    except RuntimeError:
        raise UsageError(f"this user has no home directory for `{folder}`", hint="set HOME to one") from None


def store_directory(args: argparse.Namespace) -> Path:
    """Return where the local store is: --store, $PACKAGER_STORE, or the user's data directory."""
    named = args.store or os.environ.get("PACKAGER_STORE")
    return Path(named) if named else under_home("XDG_DATA_HOME", ".local/share") / "packager"


def served_environments(args: argparse.Namespace) -> Path:
    """Return where equal environments of installations are kept once: in the store, whether it is there yet or not."""
    from packager.store import environments

    return store_directory(args).absolute() / "v1" / environments.SERVED


def knowledge_directory() -> Path:
    """Return where a site keeps newer tables of runtime knowledge (`packager runtimes update`)."""
    named = os.environ.get("PACKAGER_KNOWLEDGE")
    return Path(named) if named else under_home("XDG_DATA_HOME", ".local/share") / "packager" / "knowledge"


def advisories_directory() -> Path:
    """Return where imported advisories are kept (`packager vulndb import`)."""
    named = os.environ.get("PACKAGER_ADVISORIES")
    return Path(named) if named else under_home("XDG_DATA_HOME", ".local/share") / "packager" / "advisories"


def cache_directory() -> Path:
    """Return where things are kept that can be made again: environments of runtimes under test."""
    return under_home("XDG_CACHE_HOME", ".cache") / "packager"


def open_store(args: argparse.Namespace) -> Store:
    """Open the local store."""
    from packager.store.store import Store

    store = Store(store_directory(args))
    store.sweep()
    return store


def open_bundle(args: argparse.Namespace, on_event: OnEvent | None = None) -> Bundle:
    """Open the BUNDLE argument."""
    return open_reference(args.bundle, args, on_event)


def open_reference(text: str, args: argparse.Namespace, on_event: OnEvent | None = None) -> Bundle:
    """Open any bundle; the store and the network are only touched if they are the place."""
    from packager.bundle.bundle import open_bundle as opened

    return opened(text, lambda: open_store(args), lambda reference: remote(reference, args, on_event))


def remote(text: str, args: argparse.Namespace, on_event: OnEvent | None = None) -> Medium:
    """Return the bundle that `oci://…`, `s3://…` or another address names, as a place to read from."""
    from packager.events import ignore

    if not text.startswith("oci://"):
        from packager.transport.bucket import medium, reference

        return medium.open_reference(reference.parse(text))
    from packager.transport.registry import reference as references
    from packager.transport.registry.medium import RegistryBundle

    return RegistryBundle(references.parse(text), registry_settings(args), on_event or ignore)


def repository(text: str, args: argparse.Namespace) -> Repository:
    """Return the repository of a registry that `oci://…` names."""
    from packager.transport.registry import reference
    from packager.transport.registry.repository import Repository

    return Repository(reference.parse(text), registry_settings(args))


def clock() -> str:
    """Return the time now, as journals write it."""
    from datetime import UTC, datetime

    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def trusted_keys(args: argparse.Namespace) -> list[PublicKey]:
    """Load every --key."""
    from packager.trust.keys import load_public

    return [load_public(path) for path in args.key]

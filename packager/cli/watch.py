# SPDX-License-Identifier: Apache-2.0
"""Follow model registries: release the version that an alias moves to, and write the outcome back as tags.

Recipes of the release file whose source is `models:/NAME@ALIAS` are followed. Version 7 of the registry makes of a
recipe's version 1.4.0 the bundle 1.4.7; every version is released once, by any number of watchers on one store, and one
that was killed goes on where it was. With --tag, versions that have this tag are released as well.

With --listen, `/webhook` takes MLflow's signed webhooks ($PACKAGER_WEBHOOK_SECRET), so that nothing waits for a poll
and no move is missed; `/metrics` is for Prometheus, `/healthz` for a supervisor. Ends with SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from packager.cli import _signer, options
from packager.cli.console import Console

if TYPE_CHECKING:
    from packager.api.releases import Receiver

FOR = "release"
HELP = "follow a registry: release what an alias moves to"
EXAMPLES = """  packager watch release.yaml
  packager watch release.yaml --once                       # from cron: what is new now, then end
  packager watch release.yaml --tag approved=yes --interval 300
  packager watch release.yaml --listen 0.0.0.0:8443 --tls-certificate watch.pem --tls-key watch.key"""
_SECRET = "PACKAGER_WEBHOOK_SECRET"  # noqa: S105 - the name of a variable


def arguments(parser: argparse.ArgumentParser) -> None:
    options.release_file(parser)
    parser.add_argument("--interval", type=float, default=60.0, metavar="SECONDS", help="between two polls (60)")
    parser.add_argument("--tag", metavar="KEY=VALUE", help="release versions that have this tag, too")
    parser.add_argument("--once", action="store_true", help="release what the registries show now, and end")
    parser.add_argument("--traces", metavar="URL", help="send spans to this OTLP collector, such as …:4318/v1/traces")
    group = parser.add_argument_group("listener")
    group.add_argument("--listen", metavar="HOST:PORT", help="answer /webhook, /metrics and /healthz there")
    group.add_argument(
        "--webhook-secret-file", type=Path, metavar="FILE", help=f"file whose first line is the secret (${_SECRET})"
    )
    group.add_argument("--tls-certificate", type=Path, metavar="PEM", help="speak TLS with this certificate chain")
    group.add_argument("--tls-key", type=Path, metavar="PEM", help="the key of the certificate")
    options.add_secrets(parser)
    options.add_registry(parser)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.api import releases
    from packager.errors import NegativeAnswerError, StepError

    tag, receiver = _tag(args), _receiver(args)
    file = releases.read_release_file(args.file)
    with console:
        done = releases.watch_registries(
            file,
            options.open_workspace(args, console),
            secrets=_signer.secrets_of(args, file),
            interval=_interval(args),
            tag=tag,
            receiver=receiver,
            traces=args.traces,
            once=args.once,
        )
    ok = not (done["refused"] or done["failed"] or (args.once and done["waiting"]))
    console.result({"ok": ok, **done}, ", ".join(f"{count} {state}" for state, count in done.items()))
    if ok:
        return 0
    return NegativeAnswerError.code if done["refused"] else StepError.code


def _interval(args: argparse.Namespace) -> float:
    from packager.errors import UsageError

    if not 1 <= args.interval <= 86_400:
        raise UsageError(f"`--interval {args.interval}`: expected 1 to 86400 seconds")
    return float(args.interval)


def _tag(args: argparse.Namespace) -> tuple[str, str] | None:
    from packager.errors import UsageError

    if args.tag is None:
        return None
    key, equals, value = args.tag.partition("=")
    if not key or not equals or any(mark in args.tag for mark in "'`\"\\\n"):
        raise UsageError(f"`--tag {args.tag:.80}`: expected KEY=VALUE without quotes")
    return key, value


def _receiver(args: argparse.Namespace) -> Receiver | None:
    from packager.api import releases
    from packager.errors import UsageError

    secret = os.environ.get(_SECRET, "").encode()
    if args.webhook_secret_file is not None:
        try:
            secret = args.webhook_secret_file.read_bytes().split(b"\n", 1)[0]
        except OSError as error:
            raise UsageError(f"cannot read `{args.webhook_secret_file}`: {error.strerror}") from None
    if args.listen is None:
        if args.webhook_secret_file or args.tls_certificate:
            raise UsageError("webhooks need an address", hint="give --listen HOST:PORT")
        return None
    host, _, port = args.listen.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise UsageError(f"`--listen {args.listen:.80}`: expected HOST:PORT")
    if (args.tls_certificate is None) != (args.tls_key is None):
        raise UsageError("TLS needs a certificate and its key", hint="give --tls-certificate and --tls-key")
    place = (host.strip("[]"), int(port))
    return releases.Receiver(place, secret or None, args.tls_certificate, args.tls_key)

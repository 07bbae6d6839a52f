# SPDX-License-Identifier: Apache-2.0
"""Serve one installed model: `python -m packager.server CONFIG.json [--host H] [--port P] …`.

`--knobs` takes the resolved knobs as JSON, {"digest": "sha256:…", "values": {"server.port": 9000, …}}; the
options of the same meaning win over it, knobs of other runtimes are not for this program.

Exit codes: 0 stopped by a signal · 2 usage · 3 the address is not free · 4 the configuration or the model is not
usable. A start that fails says why in one line on stderr, with a `hint:` line where there is a remedy.
"""

from __future__ import annotations

import argparse
import asyncio
import logging.config
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from packager.server import config, logs
from packager.server.errors import StartError
from packager.server.gate import Limits
from packager.server.knobs import Knobs
from packager.server.serve import Settings, serve
from packager.server.systemd import Supervisor


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the server until a signal and end the process."""
    arguments = _arguments(argv)
    logging.config.dictConfig(logs.settings(arguments.log_level, arguments.log_format))
    code = 0
    try:
        settings = _settings(arguments)
        asyncio.new_event_loop().run_until_complete(serve(_config(arguments), settings))
    except StartError as error:
        hint = f"hint: {error.hint}\n" if error.hint else ""
        sys.stderr.write(f"error: {error.message}\n{hint}")
        code = error.code
    sys.stderr.flush()
    # Not `sys.exit`: the interpreter would wait for a run that outlived the drain, and granian's threads panic when
    # they meet an interpreter that is half gone. There is nothing to save: answers are sent, lines are flushed.
    os._exit(code)


_KNOBS = {
    "batch.max": "max_batch", "server.host": "host", "server.port": "port", "server.grpc_port": "grpc_port",
    "server.workers": "workers",
    "server.max_body": "max_body", "server.max_in_flight": "max_in_flight",
    "server.max_connections": "max_connections", "server.read_timeout": "read_timeout", "server.drain": "drain",
    "runtime.threads": "threads", "log.level": "log_level", "log.format": "log_format",
}  # fmt: skip


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse twice: what `--knobs` says becomes the defaults, checked by the same rules as the options."""
    parser = _parser()
    knobs = parser.parse_args(argv).knobs
    values = {_KNOBS[name]: str(value) for name, value in knobs.values.items() if name in _KNOBS}
    parser.set_defaults(**values)
    arguments = parser.parse_args(argv)
    if bool(arguments.tls_certificate) != bool(arguments.tls_key):
        parser.error("--tls-certificate and --tls-key go together")
    return arguments


def _config(arguments: argparse.Namespace) -> config.Config:
    return config.read(arguments.config).with_rows(arguments.max_batch)


def _parser() -> argparse.ArgumentParser:
    limits = Limits()
    parser = argparse.ArgumentParser(prog="python -m packager.server", description="Serve one installed model.")
    parser.add_argument("config", type=Path, metavar="CONFIG.json")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=_number(int, 1, 65535), default=8000, help="(%(default)s)")
    parser.add_argument("--grpc-port", type=_number(int, 1, 65535), default=None, help="also serve gRPC (off)")
    parser.add_argument("--threads", type=_number(int, 1, 1024), default=1, help="threads per run (%(default)s)")
    parser.add_argument(
        "--workers", type=_number(int, 1, 1024), default=None, help="long runs at once (cores / threads)"
    )
    parser.add_argument(
        "--max-body", type=_number(int, 1, 2**40), default=limits.max_body, help="bytes of one request (%(default)s)"
    )
    parser.add_argument(
        "--max-in-flight", type=_number(int, 1, 10**6), default=limits.max_in_flight,
        help="requests before 503 (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--max-connections", type=_number(int, 1, 10**6), default=limits.connections, help="(%(default)s)"
    )
    parser.add_argument(
        "--read-timeout", type=_number(float, 0.1, 86400), default=limits.read_timeout,
        help="seconds for a client to send a head or a body, or to sit idle (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--drain", type=_number(float, 0, 86400), default=30.0, help="seconds to finish on SIGTERM (%(default)s)"
    )
    parser.add_argument("--log-level", choices=logs.LEVELS, default="info", help="debug logs every request")
    parser.add_argument("--log-format", choices=logs.FORMATS, default="json", help="(%(default)s)")
    parser.add_argument("--max-batch", type=_number(int, 1, 2**31), default=None, help="rows of one request")
    parser.add_argument("--tls-certificate", type=Path, metavar="PEM", help="serve TLS with this chain")
    parser.add_argument("--tls-key", type=Path, metavar="PEM", help="and this key")
    parser.add_argument("--knobs", type=Knobs.parse, default=Knobs(), metavar="JSON", help="see the module's text")
    return parser


def _number(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected {low} to {high}, got {text}")
        return value

    parse.__name__ = kind.__name__
    return parse


def _settings(arguments: argparse.Namespace) -> Settings:
    cores = len(os.sched_getaffinity(0))
    return Settings(
        host=arguments.host,
        port=arguments.port,
        grpc_port=arguments.grpc_port,
        threads=arguments.threads,
        workers=arguments.workers or max(1, cores // arguments.threads),
        drain=arguments.drain,
        log_level=arguments.log_level,
        log_format=arguments.log_format,
        knobs=arguments.knobs,
        tls=(arguments.tls_certificate, arguments.tls_key) if arguments.tls_key else None,
        supervisor=Supervisor.from_environment(os.environ, os.getpid()),  # noqa: TID251 - this is its command line
        limits=Limits(
            max_body=arguments.max_body,
            max_in_flight=arguments.max_in_flight,
            connections=arguments.max_connections,
            read_timeout=arguments.read_timeout,
        ),
    )


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Serve one installed model: `python -m packager.server CONFIG.json [--host H] [--port P] …`.

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
from packager.server.serve import Settings, serve


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the server until a signal and end the process."""
    arguments = _parser().parse_args(argv)
    settings = _settings(arguments)
    logging.config.dictConfig(logs.settings(settings.log_level))
    code = 0
    try:
        asyncio.new_event_loop().run_until_complete(serve(config.read(arguments.config), settings))
    except StartError as error:
        hint = f"hint: {error.hint}\n" if error.hint else ""
        sys.stderr.write(f"error: {error.message}\n{hint}")
        code = error.code
    sys.stderr.flush()
    # Not `sys.exit`: the interpreter would wait for a run that outlived the drain, and granian's threads panic when
    # they meet an interpreter that is half gone. There is nothing to save: answers are sent, lines are flushed.
    os._exit(code)


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
        limits=Limits(
            max_body=arguments.max_body,
            max_in_flight=arguments.max_in_flight,
            connections=arguments.max_connections,
            read_timeout=arguments.read_timeout,
        ),
    )


if __name__ == "__main__":
    main()

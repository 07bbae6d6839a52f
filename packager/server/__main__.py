# SPDX-License-Identifier: Apache-2.0
"""Serve one installed model: `python -m packager.server CONFIG.json [--host H] [--port P] …`.

`--knobs` takes the resolved knobs as JSON, {"digest": "sha256:…", "values": {"server.port": 9000, …}}; the
options of the same meaning win over it, knobs of other runtimes are not for this program.

Exit codes: 0 stopped by a signal · 2 usage · 3 the address is not free · 4 the configuration or the model is not
usable. A start that fails says why in one line on stderr, with a `hint:` line where there is a remedy.
"""

from __future__ import annotations

import argparse
import logging
import logging.config
import os
import resource
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from packager.server import config
from packager.server.admission.gate import Limits
from packager.server.errors import StartError
from packager.server.execution.batching import Policy
from packager.server.execution.engine import Work
from packager.server.execution.pool import How
from packager.server.grpc.service import Credentials
from packager.server.http.auth import Guard
from packager.server.http.proxies import Proxies
from packager.server.knobs import Knobs
from packager.server.process import event_loop, host_limits, systemd
from packager.server.process.inherited import WAITS, Inherited
from packager.server.process.supervisor import Plan, Supervisor
from packager.server.service import Settings, serve
from packager.server.telemetry import logs
from packager.server.telemetry.traces import Collector

_OTHER_FILES = 64  # descriptors that are not connections of clients
_WORKER_FILES = 5


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the server until a signal and end the process."""
    words = sys.argv[1:] if argv is None else argv
    arguments = _arguments(words)
    logging.config.dictConfig(logs.settings(arguments.log_level, arguments.log_format))
    code = 0
    try:
        if arguments.processes > 1 and arguments.inherited is None:
            code = _supervise(arguments, words)
        else:
            found = _config(arguments)
            if not arguments.standby:
                _judge_memory(arguments, found)
            event_loop.new().run_until_complete(serve(found, _settings(arguments)))
    except StartError as error:
        hint = f"hint: {error.hint}\n" if error.hint else ""
        sys.stderr.write(f"error: {error.message}\n{hint}")
        code = error.code
    sys.stderr.flush()
    # Not `sys.exit`: the interpreter would wait for a run that outlived the drain, and granian's threads panic when
    # they meet an interpreter that is half gone. There is nothing to save: answers are sent, lines are flushed.
    os._exit(code)


def _supervise(arguments: argparse.Namespace, words: list[str]) -> int:
    """Run several of this program on one socket. Raises StartError."""
    program = [sys.executable, "-I", sys.argv[0]] if sys.flags.isolated else [sys.executable, "-m", "packager.server"]
    plan = Plan(
        (*program, *words),
        str(arguments.config),
        arguments.processes,
        arguments.host,
        arguments.port,
        arguments.grpc_port,
        arguments.drain,
        dict(os.environ),  # noqa: TID251 - handed on as it is
    )
    return Supervisor(lambda: plan, lambda: None, logs.event, _systemd()).run()


_KNOBS = {
    "batch.max": "max_batch",
    "batch.rows": "batch_rows",
    "batch.window": "batch_window",
    "server.host": "host",
    "server.port": "port",
    "server.grpc_port": "grpc_port",
    "server.limits": "limits",
    "server.processes": "processes",
    "server.workers": "workers",
    "server.max_body": "max_body",
    "server.max_in_flight": "max_in_flight",
    "server.max_connections": "max_connections",
    "server.read_timeout": "read_timeout",
    "server.body_timeout": "body_timeout",
    "server.request_timeout": "request_timeout",
    "server.drain": "drain",
    "server.quiet": "quiet",
    "server.path_prefix": "path_prefix",
    "server.forwarded": "forwarded",
    "server.cors": "cors",
    "tracing.host": "tracing_host",
    "tracing.port": "tracing_port",
    "tracing.ratio": "tracing_ratio",
    "runtime.threads": "threads",
    "runtime.processes": "runtime_processes",
    "log.level": "log_level",
    "log.format": "log_format",
}


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse twice: what `--knobs` says becomes the defaults, checked by the same rules as the options."""
    parser = _parser()
    knobs = parser.parse_args(argv).knobs
    values = {_KNOBS[name]: _written(value) for name, value in knobs.values.items() if name in _KNOBS}
    parser.set_defaults(**values)
    arguments = parser.parse_args(argv)
    if bool(arguments.tls_certificate) != bool(arguments.tls_key):
        parser.error("--tls-certificate and --tls-key go together")
    if arguments.tls_client_ca and not arguments.tls_key:
        parser.error("--tls-client-ca needs --tls-certificate and --tls-key")
    return arguments


def _written(value: object) -> str:
    """Return a knob's value as the command line has it."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _config(arguments: argparse.Namespace) -> config.Config:
    return config.read(arguments.config).limited(arguments.limits).with_rows(arguments.max_batch)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m packager.server", description="Serve one installed model.")
    parser.add_argument("config", type=Path, metavar="CONFIG.json")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=_number(int, 1, 65535), default=8000, help="(%(default)s)")
    parser.add_argument("--grpc-port", type=_number(int, 1, 65535), default=None, help="also serve gRPC (off)")
    parser.add_argument("--threads", type=_number(int, 1, 1024), default=1, help="threads per run (%(default)s)")
    parser.add_argument(
        "--runtime-processes",
        type=_number(int, 0, 256),
        default=0,
        help="processes of their own that run the model (0: this one does)",
    )
    parser.add_argument(
        "--workers", type=_number(int, 1, 1024), default=None, help="long runs at once (cores / threads)"
    )
    parser.add_argument(
        "--processes", type=_number(int, 1, 1024), default=1, help="processes on one port (%(default)s)"
    )
    parser.add_argument(
        "--batch-rows", type=_number(int, 1, 2**31), default=2**31, help="rows of one run that requests share"
    )
    parser.add_argument(
        "--batch-window", type=_number(float, 0, 1000), default=0.0, help="milliseconds to wait for company (0)"
    )
    parser.add_argument(
        "--drain", type=_number(float, 0, 86400), default=30.0, help="seconds to finish on SIGTERM (%(default)s)"
    )
    parser.add_argument(
        "--quiet",
        type=_number(float, 0, 86400),
        default=1.0,
        help="seconds without a request, after SIGTERM, before no connection is taken any more (%(default)s)",
    )
    parser.add_argument("--log-level", choices=logs.LEVELS, default="info", help="debug logs every request")
    parser.add_argument("--log-format", choices=logs.FORMATS, default="json", help="(%(default)s)")
    parser.add_argument("--max-batch", type=_number(int, 1, 2**31), default=None, help="rows of one request")
    parser.add_argument("--limits", choices=("stated", "measured"), default="stated", help="sizes that are refused")
    parser.add_argument("--tls-certificate", type=Path, metavar="PEM", help="serve TLS with this chain")
    parser.add_argument("--tls-key", type=Path, metavar="PEM", help="and this key")
    parser.add_argument("--tls-client-ca", type=Path, metavar="PEM", help="clients need a certificate of these CAs")
    parser.add_argument("--tokens", type=Path, metavar="FILE", help="clients need one of these bearer tokens")
    parser.add_argument("--path-prefix", default="", help="that proxies leave before the paths here (none)")
    parser.add_argument("--forwarded", choices=("true", "false"), default="false", help="believe X-Forwarded-… headers")
    parser.add_argument("--cors", default="", metavar="ORIGIN,…", help="origins whose pages may ask, * for all (none)")
    parser.add_argument("--tracing-host", help="send spans to the OpenTelemetry collector there (none)")
    parser.add_argument("--tracing-port", type=_number(int, 1, 65535), default=4318, help="(%(default)s)")
    parser.add_argument("--tracing-ratio", type=_number(float, 0, 1), default=0.01, help="of requests (%(default)s)")
    parser.add_argument("--inherited", type=_inherited, default=None, metavar="FDS", help=argparse.SUPPRESS)
    parser.add_argument("--standby", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--knobs", type=Knobs.parse, default=Knobs(), metavar="JSON", help="see the module's text")
    _bound(parser, Limits())
    return parser


def _bound(parser: argparse.ArgumentParser, limits: Limits) -> None:
    """Add what bounds clients."""
    parser.add_argument(
        "--max-body", type=_number(int, 1, 2**40), default=limits.max_body, help="bytes of one request (%(default)s)"
    )
    parser.add_argument(
        "--max-in-flight",
        type=_number(int, 1, 10**6),
        default=limits.max_in_flight,
        help="requests in progress or queued before 429 (%(default)s)",
    )
    parser.add_argument(
        "--max-connections", type=_number(int, 1, 10**6), default=limits.connections, help="(%(default)s)"
    )
    parser.add_argument(
        "--read-timeout",
        type=_number(float, 0.1, 86400),
        default=limits.read_timeout,
        help="seconds for a client to send a head, or to sit idle (%(default)s)",
    )
    parser.add_argument(
        "--body-timeout",
        type=_number(float, 0.1, 86400),
        default=limits.body_timeout,
        help="seconds for a client to send a body (%(default)s)",
    )
    parser.add_argument(
        "--request-timeout",
        type=_number(float, 0.001, 86400),
        default=None,
        help="seconds for an answer before 504 (no limit)",
    )


def _number(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected {low} to {high}, got {text}")
        return value

    parse.__name__ = kind.__name__
    return parse


def _inherited(text: str) -> Inherited:
    listener, line = map(int, text.split(","))
    return Inherited(listener, line)


def _settings(arguments: argparse.Namespace) -> Settings:
    own = arguments.inherited
    return Settings(
        host=arguments.host,
        port=arguments.port,
        grpc_port=arguments.grpc_port,
        work=Work(
            workers=arguments.workers or arguments.runtime_processes or _runs_at_once(arguments),
            threads=arguments.threads,
            batch=Policy(arguments.batch_rows, arguments.batch_window / 1000),
            apart=_apart(arguments),
        ),
        drain=arguments.drain,
        quiet=arguments.quiet,
        log_level=arguments.log_level,
        log_format=arguments.log_format,
        knobs=arguments.knobs,
        tls=_credentials(arguments),
        proxies=Proxies(
            arguments.path_prefix, arguments.forwarded == "true", frozenset(filter(None, arguments.cors.split(",")))
        ),
        guard=Guard.read(arguments.tokens) if arguments.tokens else Guard(),
        collector=Collector(arguments.tracing_host, arguments.tracing_port, arguments.tracing_ratio)
        if arguments.tracing_host
        else None,
        inherited=replace(own, standby=arguments.standby, waits=WAITS in os.environ) if own else None,  # noqa: TID251
        supervisor=systemd.Supervisor() if own else _systemd(),
        limits=Limits(
            max_body=arguments.max_body,
            max_in_flight=arguments.max_in_flight,
            connections=_connections(arguments),
            read_timeout=arguments.read_timeout,
            body_timeout=arguments.body_timeout,
            request_timeout=arguments.request_timeout,
        ),
    )


def _systemd() -> systemd.Supervisor:
    return systemd.Supervisor.from_environment(os.environ, os.getpid())  # noqa: TID251 - this is its command line


def _credentials(arguments: argparse.Namespace) -> Credentials | None:
    if not arguments.tls_key:
        return None
    return Credentials(arguments.tls_certificate, arguments.tls_key, arguments.tls_client_ca)


def _runs_at_once(arguments: argparse.Namespace) -> int:
    return max(1, host_limits.read().whole_cpus // (arguments.threads * arguments.processes))


def _judge_memory(arguments: argparse.Namespace, found: config.Config) -> None:
    """Say so where the memory that all processes may have together is less than they may come to need."""
    limit = host_limits.read().memory
    model = sum(path.stat().st_size for path in found.artefact.parent.iterdir() if path.is_file())
    traffic = found.interface.traffic()
    needed = host_limits.needed(model, arguments.processes, arguments.runtime_processes, arguments.max_body, traffic)
    if limit is not None and limit < needed:
        logs.event("memory may not suffice", logging.WARNING, limit=limit, needed=needed)


def _apart(arguments: argparse.Namespace) -> How | None:
    if not arguments.runtime_processes:
        return None
    return How(arguments.runtime_processes, arguments.threads, dict(os.environ))  # noqa: TID251 - it takes its part


def _connections(arguments: argparse.Namespace) -> int:
    """Return how many connections the process can have, having asked for as many descriptors as it may."""
    others = _OTHER_FILES + _WORKER_FILES * arguments.runtime_processes
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    wanted: int = arguments.max_connections
    return wanted if most == resource.RLIM_INFINITY else max(1, min(wanted, most - others))


if __name__ == "__main__":
    main()

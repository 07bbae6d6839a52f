# SPDX-License-Identifier: Apache-2.0
"""Parse the command line of the server and run it: `python -m packager.server CONFIG.json [--knobs JSON] …`.

`--knobs` takes the resolved knobs as JSON, {"digest": "sha256:…", "values": {"server.port": 9000, …}}. An option
overrides the knob of its name (`--max-body` is `server.max_body`); knobs of other runtimes are ignored.

Exit codes: 0 stopped by a signal · 2 usage · 3 the address is not free · 4 the configuration or the model is not
usable. A failed start writes the reason in one line to stderr, with a `hint:` line where there is a remedy.
"""

from __future__ import annotations

import argparse
import logging
import logging.config
import os
import resource
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

# Before numpy is imported: its threads wait for each other, milliseconds where other programs hold the cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # noqa: TID251

from packager.server import batch, config
from packager.server.admission.admission import Limits
from packager.server.declaration import Knob
from packager.server.errors import StartError
from packager.server.execution.batching import BatchPolicy
from packager.server.execution.engine import ExecutionSettings
from packager.server.execution.worker_pool import WorkerSettings
from packager.server.grpc.service import Credentials
from packager.server.http.auth import Guard
from packager.server.http.proxies import Proxies
from packager.server.knobs import KNOBS, SECRETS, Knobs, check_value, effective_values
from packager.server.process import event_loop, host_limits, systemd
from packager.server.process.inherited_sockets import WAITS, Inherited
from packager.server.process.supervisor import Plan, Supervisor
from packager.server.service import Settings, serve
from packager.server.telemetry import logs
from packager.server.telemetry.traces import Collector

_OTHER_FILES = 64  # descriptors that are not connections of clients
_WORKER_FILES = 5


@dataclass(frozen=True, slots=True)
class Arguments:
    """The command line. `values` has every knob of the server; `knobs`: the values of `--knobs`."""

    config: Path
    knobs: Knobs
    values: Mapping[str, Any]
    credentials: Credentials | None
    tokens: Path | None
    inherited: Inherited | None

    @property
    def processes(self) -> int:
        return int(self.values["server.processes"])


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the server until a signal and end the process."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == [batch.FLAG]:
        sys.exit(batch.main(words[1:]))
    arguments = _parse_arguments(words)
    values = arguments.values
    logging.config.dictConfig(logs.configure_logging(values["log.level"], values["log.format"]))
    code = 0
    try:
        if arguments.processes > 1 and arguments.inherited is None:
            code = _supervise(arguments, words)
        else:
            found = _read_config(arguments)
            if arguments.inherited is None or not arguments.inherited.standby:
                _check_memory(values, found)
            event_loop.new_event_loop().run_until_complete(serve(found, _settings(arguments)))
    except StartError as error:
        hint = f"hint: {error.hint}\n" if error.hint else ""
        sys.stderr.write(f"error: {error.message}\n{hint}")
        code = error.code
    sys.stderr.flush()
    # Not `sys.exit`: the interpreter would wait for a run that outlived the drain, and granian's threads panic when
    # they meet an interpreter that is shutting down. There is nothing to save: answers are sent, lines are flushed.
    os._exit(code)


def _supervise(arguments: Arguments, words: list[str]) -> int:
    """Run several of this program on one socket. Raises StartError."""
    program = (
        [sys.executable, "-I", sys.argv[0]] if sys.flags.isolated else [sys.executable, "-P", "-m", "packager.server"]
    )
    values = arguments.values
    plan = Plan(
        (*program, *words),
        str(arguments.config),
        arguments.processes,
        values["server.host"],
        values["server.port"],
        values["server.grpc_port"],
        values["server.drain"],
        dict(os.environ),  # noqa: TID251 - handed on as it is
    )
    return Supervisor(lambda: plan, lambda: None, logs.log_event, _systemd()).run()


def _parse_arguments(argv: list[str]) -> Arguments:
    parser = _parser()
    found = parser.parse_args(argv)
    if bool(found.tls_certificate) != bool(found.tls_key):
        parser.error("--tls-certificate and --tls-key go together")
    if found.tls_client_ca and not found.tls_key:
        parser.error("--tls-client-ca needs --tls-certificate and --tls-key")
    own = found.inherited
    return Arguments(
        found.config,
        found.knobs,
        effective_values(found.knobs, {name: value for name, value in vars(found).items() if name in KNOBS}),
        Credentials(found.tls_certificate, found.tls_key, found.tls_client_ca) if found.tls_key else None,
        found.tokens,
        replace(own, standby=found.standby, waits=WAITS in os.environ) if own else None,  # noqa: TID251
    )


def _parser() -> argparse.ArgumentParser:
    """Return the parser: one option for each knob that is a plain value, and one for the file of each secret."""
    parser = argparse.ArgumentParser(
        prog="python -m packager.server",
        description="Serve one installed model.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("config", type=Path, metavar="CONFIG.json")
    parser.add_argument("--knobs", type=_parse_knobs, default=Knobs(), metavar="JSON", help="see the module's text")
    for knob in KNOBS.values():
        if knob.kind not in ("secret", "labels"):
            parser.add_argument(
                _option(knob), dest=knob.name, type=_value_parser(knob), metavar=knob.kind.upper(), help=_help(knob)
            )
    for name, option in SECRETS.items():
        parser.add_argument(option, type=Path, default=None, metavar="FILE", help=KNOBS[name].about)
    parser.add_argument("--inherited", type=_parse_inherited, default=None, metavar="FDS", help=argparse.SUPPRESS)
    parser.add_argument("--standby", action="store_true", default=False, help=argparse.SUPPRESS)
    return parser


def _option(knob: Knob) -> str:
    """Return the option of a knob: `--max-body` for `server.max_body`, `--batch-rows` for `batch.rows`."""
    return "--" + knob.name.removeprefix("server.").replace(".", "-").replace("_", "-")


def _help(knob: Knob) -> str:
    default = "" if knob.default is None else f" ({knob.default})"
    return f"{knob.about}{default}".replace("%", "%%")


def _value_parser(knob: Knob) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return check_value(knob, knob.read(text))
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def _parse_knobs(text: str) -> Knobs:
    try:
        return Knobs.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _parse_inherited(text: str) -> Inherited:
    listener, channel = map(int, text.split(","))
    return Inherited(listener, channel)


def _read_config(arguments: Arguments) -> config.Config:
    values = arguments.values
    return config.read(arguments.config).with_limits(values["server.limits"]).with_rows(values["batch.max"])


def _settings(arguments: Arguments) -> Settings:
    values = arguments.values
    return Settings(
        host=values["server.host"],
        port=values["server.port"],
        grpc_port=values["server.grpc_port"],
        execution=ExecutionSettings(
            workers=values["server.workers"] or values["runtime.processes"] or _concurrent_runs(values),
            threads=values["runtime.threads"],
            batch=BatchPolicy(values["batch.rows"], values["batch.window"] / 1000),
            worker_settings=_worker_settings(values),
            huge_pages=values["runtime.huge_pages"],
        ),
        drain=values["server.drain"],
        quiet=values["server.quiet"],
        log_level=values["log.level"],
        log_format=values["log.format"],
        knobs=arguments.knobs,
        tls=arguments.credentials,
        proxies=Proxies(
            values["server.path_prefix"] or "", values["server.forwarded"], frozenset(values["server.cors"] or ())
        ),
        guard=Guard.read(arguments.tokens) if arguments.tokens else Guard(),
        collector=Collector(values["tracing.host"], values["tracing.port"], values["tracing.ratio"])
        if values["tracing.host"]
        else None,
        inherited=arguments.inherited,
        page=values["server.page"],
        systemd=systemd.Systemd() if arguments.inherited else _systemd(),
        limits=Limits(
            max_body=values["server.max_body"],
            max_in_flight=values["server.max_in_flight"],
            connections=_max_connections(values),
            read_timeout=values["server.read_timeout"],
            body_timeout=values["server.body_timeout"],
            request_timeout=values["server.request_timeout"],
        ),
    )


def _systemd() -> systemd.Systemd:
    return systemd.Systemd.from_environment(os.environ, os.getpid())  # noqa: TID251 - this is its command line


def _concurrent_runs(values: Mapping[str, Any]) -> int:
    return max(1, host_limits.read_allowance().whole_cpus // (values["runtime.threads"] * values["server.processes"]))


def _check_memory(values: Mapping[str, Any], found: config.Config) -> None:
    """Log a warning where the memory limit of all processes is less than they may come to need."""
    limit = host_limits.read_allowance().memory
    model = sum(path.stat().st_size for path in found.artefact.parent.iterdir() if path.is_file())
    needed = host_limits.memory_needed(
        model,
        values["server.processes"],
        values["runtime.processes"],
        values["server.max_body"],
        found.interface.traffic(),
    )
    if limit is not None and limit < needed:
        logs.log_event("memory may not suffice", logging.WARNING, limit=limit, needed=needed)


def _worker_settings(values: Mapping[str, Any]) -> WorkerSettings | None:
    if not values["runtime.processes"]:
        return None
    return WorkerSettings(
        values["runtime.processes"],
        values["runtime.threads"],
        dict(os.environ),  # noqa: TID251 - filtered there
        huge_pages=values["runtime.huge_pages"],
    )


def _max_connections(values: Mapping[str, Any]) -> int:
    """Raise the limit of open descriptors as far as allowed; return how many connections fit into it."""
    others = _OTHER_FILES + _WORKER_FILES * values["runtime.processes"]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    wanted: int = values["server.max_connections"]
    return wanted if most == resource.RLIM_INFINITY else max(1, min(wanted, most - others))


if __name__ == "__main__":
    main()

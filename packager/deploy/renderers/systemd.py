# SPDX-License-Identifier: Apache-2.0
"""An installation as units of systemd: a socket, and a service that sees, owns and reaches as little as it can.

    NAME.socket      the listener; it outlives restarts of the server, so no client is refused during one
    NAME.service     `packager serve DIRECTORY`, with readiness and a watchdog, under a user that exists while it runs
    NAME.yaml        the values that the site set, for `--values`

Without gRPC the service has no network of its own: connections come through the socket alone. TLS secrets are
credentials, which root reads for it. After `packager upgrade` or `rollback`, `systemctl restart NAME` serves the
release that is current then.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import PurePosixPath

from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.deploy import server_files
from packager.deploy.renderers import _deployment
from packager.deploy.renderers._deployment import Option, Rendered
from packager.errors import UsageError
from packager.knobs.knobs import Resolved
from packager.server.knobs import SECRETS

ABOUT = "hardened units for an installation"
DEFAULTS: Mapping[str, str] = {}
_PATH = r"(/[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}){1,16}"
OPTIONS = (
    Option("directory", "DIR", "an absolute path, that of the installation; default: /srv/NAME", _PATH),
    Option("program", "FILE", "an absolute path, that of packager on the host", _PATH, "/usr/local/bin/packager"),
    Option("values-file", "FILE", "an absolute path, where NAME.yaml will be; default: /etc/packager/NAME.yaml", _PATH),
    _deployment.TARGET,
)
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - what the service does not see
_GPU = ("char-nvidia", "char-nvidia-uvm", "char-nvidiactl")


def render(bundle: Bundle, values: Resolved, options: Mapping[str, str]) -> Rendered:
    """Return the units. Raises UsageError for an address or a directory that they cannot name."""
    name = bundle.name
    directory = options["directory"] or f"/srv/{name}"
    if any(PurePosixPath(directory).is_relative_to(place) for place in _HIDDEN):
        raise UsageError(f"--directory: the service does not see `{directory}`", hint=f"install it in /srv/{name}")
    file = options["values-file"] or f"/etc/packager/{name}.yaml"
    credentials = _credentials(name, values)
    made = {
        f"{name}.service": _service(bundle, values, options, {"directory": directory, "values": file}, credentials),
        f"{name}.socket": _deployment.fill_template(
            "systemd/socket", name=name, version=bundle.version, bundle=bundle.digest, address=_address(values)
        ),
        f"{name}.yaml": _site(values, {knob: place for knob, (_, place) in credentials.items()}),
        _deployment.RECORD: _deployment.build_record("systemd", bundle, values, options, {}),
    }
    steps = (
        f"packager install BUNDLE {directory} --trust TRUST --values OUT/{name}.yaml",
        f"install -D -m 644 OUT/{name}.yaml {file}",
        f"install -m 644 OUT/{name}.service OUT/{name}.socket /etc/systemd/system/",
        f"systemctl daemon-reload && systemctl enable --now {name}.socket {name}.service",
    )
    return Rendered(made, {}, steps)


def _service(
    bundle: Bundle,
    values: Resolved,
    options: Mapping[str, str],
    places: Mapping[str, str],
    credentials: Mapping[str, tuple[str, str]],
) -> bytes:
    contract, found = bundle.contract, values.values
    target = server_files.choose_target(contract, options["target"] or None)
    gpu = contract.targets[target].target.device != "cpu"
    grpc = "server.grpc_port" in found
    loads = "".join(f"LoadCredential={knob}:{origin}\n" for knob, (origin, _) in credentials.items())
    return _deployment.fill_template(
        "systemd/service",
        name=bundle.name,
        version=bundle.version,
        bundle=bundle.digest,
        program=options["program"],
        **places,
        credentials=loads,
        start=str(int(contract.slo.get("cold_start_s", 60)) + 60),
        stop=str(int(found["server.drain"]) + 10),
        memory=str(_deployment.estimate_memory(bundle, values)),
        cpu=str(max(1, found.get("deploy.cpu", 1000) // 10)),
        files=str(2 * found["server.max_connections"] + 256),
        private_devices="no" if gpu else "yes",
        devices="".join(f"DeviceAllow={one} rw\n" for one in _GPU if gpu),
        deny_execute="no" if gpu else "yes",
        private_network="no" if grpc else "yes",
        families="AF_UNIX AF_INET AF_INET6" if grpc else "AF_UNIX",
    )


def _address(values: Resolved) -> str:
    """Return what to listen on: systemd takes numeric addresses. Raises UsageError for another."""
    host, port = str(values.values["server.host"]), values.values["server.port"]
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise UsageError(
            f"`server.host`: a socket unit takes an address, got `{host}`",
            hint="--set server.host=0.0.0.0 is every interface",
        ) from None
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def _credentials(name: str, values: Resolved) -> dict[str, tuple[str, str]]:
    """Return for each secret where root reads it, and where the service does. Raises UsageError for other kinds."""
    found = {}
    for knob in SECRETS:
        reference = str(values.values.get(knob, ""))
        kind, _, place = reference.partition(":")
        if reference and kind != "file":
            raise UsageError(f"`{knob}`: a unit takes a file", hint=f"--set {knob}=file:/etc/{name}/…")
        if reference:
            found[knob] = (place, f"/run/credentials/{name}.service/{knob}")
    return found


def _site(values: Resolved, secrets: Mapping[str, str]) -> bytes:
    """Return the values file: what differs from the bundle's defaults, one mapping per group."""
    groups: dict[str, dict[str, JSON]] = {}
    for knob, value in values.changed.items():
        group, _, name = knob.partition(".")
        groups.setdefault(group, {})[name] = f"file:{secrets[knob]}" if knob in secrets else value
    return _deployment.yaml_text(groups, sort=True)

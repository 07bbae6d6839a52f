# SPDX-License-Identifier: Apache-2.0
"""The server's code as a package that has the bundle's digest in its name, for platforms that load it themselves.

Models of several releases load into one process, also one in which packager itself is installed.
"""

from __future__ import annotations

import re

from packager.bundle.bundle import Bundle
from packager.deploy import server_files
from packager.deploy.renderers import _deployment

_LEFT_OUT = ("__main__.py", "packager/server/__main__.py", "packager/server/http/", "packager/server/grpc/")
_OWN = re.compile(rb"\bpackager\.(?=(server|runtimes)\b)")
_DEPLOYED = re.compile(rb"^import deployed$", re.MULTILINE)
_IMPORT = re.compile(rb"^from packager import ", re.MULTILINE)


def name_package(bundle: Bundle) -> str:
    """Return the name of the package."""
    return f"packaged_{bundle.digest.removeprefix('sha256:')[:16]}"


def list_program(package: str, runtime: str, loader: str, folder: str = "") -> dict[str, bytes]:
    """Return the files by path, below `folder`: the server's without its listeners, and a template that is `model.py`.

    The template's code is of the platform's API; both import their neighbours by the package's name.
    """
    place = f"{folder}/{package}" if folder else package
    found = {
        path.replace("packager/", f"{place}/", 1): _named(data, package)
        for path, data in server_files.list_program(runtime).items()
        if not path.startswith(_LEFT_OUT)
    }
    for template, name in (("deployed.py", "deployed.py"), (loader, "model.py")):
        found[f"{place}/{name}"] = _named(_deployment.read_template(template), package)
    return found


def _named(data: bytes, package: str) -> bytes:
    """Return a module that imports its neighbours by the name of the package."""
    own = package.encode()
    data = _DEPLOYED.sub(b"from " + own + b" import deployed", data)
    return _OWN.sub(own + b".", _IMPORT.sub(b"from " + own + b" import ", data))

# SPDX-License-Identifier: Apache-2.0
"""The runbook of a bundle: for the person who was woken by an alert and has never heard of this model."""

from __future__ import annotations

from collections.abc import Sequence

from packager import escape
from packager.bundle.bundle import CARD, Bundle
from packager.canonical import JSON
from packager.contract.contract import Contract
from packager.deploy.renderers._alerts import Alert, list_objectives
from packager.knobs.knobs import Resolved

_SEVERITY = {"page": "wakes the person on call", "ticket": "for working hours", "info": "explains others"}


def render_text(bundle: Bundle, values: Resolved, found: Sequence[Alert]) -> str:
    """Return the Markdown."""
    contract = bundle.contract
    parts = [
        _head(bundle, values),
        "## What it takes and gives\n\n" + _interface(contract),
        "## Its objectives\n\n" + _objectives(contract),
        "## What it runs on\n\n" + _promises(contract),
        _first_steps(bundle),
        "## Alerts\n\n" + "\n\n".join(map(_alert, found)),
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[JSON]]) -> str:
    lines = [" | ".join(map(_cell, row)) for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(f"| {line} |" for line in lines)


def _cell(value: JSON) -> str:
    """Return text that cannot leave its cell: names come from models."""
    return "".join("\\" + char if char in "\\|`*_<>[]" else char for char in escape.line(value))


def _head(bundle: Bundle, values: Resolved) -> str:
    card = f"`{CARD}.md` in the bundle says what the model is for, and what it must not be used for.\n"
    return (
        f"# Runbook: {_cell(bundle.name)} {bundle.version}\n\n"
        f"Bundle `{bundle.digest}`, knobs `{values.digest}`.\n"
        + (card if bundle.tree.get(f"{CARD}.md") else "")
        + "Every server says at `/v2/models/NAME` and in `packager_bundle_info` which bundle it serves, and at "
        "`/v2/knobs` how."
    )


def _interface(contract: Contract) -> str:
    rows = [
        [role, port.name, port.dtype, ", ".join(map(str, port.shape))]
        for role, ports in (("inputs", contract.inputs), ("outputs", contract.outputs))
        for port in ports
    ]
    sizes = [f"`{name}` {span}" for name, span in contract.dimensions.items()]
    return _table(("", "name", "type", "shape"), rows) + (f"\n\nSizes: {', '.join(sizes)}." if sizes else "")


def _objectives(contract: Contract) -> str:
    rows = list_objectives(contract.slo)
    return _table(("what", "promised", ""), rows) if rows else "The contract promises none (`slo` in the recipe)."


def _promises(contract: Contract) -> str:
    return _table(("runtime", "versions"), [[name, promise.versions] for name, promise in contract.runs_on.items()])


def _first_steps(bundle: Bundle) -> str:
    return f"""## First steps

1. Is it up? `curl SERVER/v2/health/ready`, `packager status DIR`, `systemctl status {bundle.name}`, `kubectl get pods`
2. Is it what was signed? `packager verify DIR/current/bundle --trust TRUST`
3. Does it still answer right? `packager conform BUNDLE --endpoint SERVER --key PUB --level L3`
4. Did something change? `packager status DIR` shows the journal; `packager config diff` compares knobs.
5. Back to the release before: `packager rollback DIR` and restart; `kubectl rollout undo deployment/NAME`;
   Triton: `packager render triton OLD-BUNDLE REPOSITORY --swap URL`."""


def _alert(alert: Alert) -> str:
    steps = "\n".join(f"{number}. {step}" for number, step in enumerate(alert.steps, 1))
    return (
        f"### {alert.name}\n\n{alert.summary[:1].upper()}{alert.summary[1:]} ({alert.severity}: "
        f"{_SEVERITY[alert.severity]}; after {alert.lasts}).\n\n{steps}\n\n```promql\n{alert.query}\n```"
    )

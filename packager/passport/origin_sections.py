# SPDX-License-Identifier: Apache-2.0
"""The sections of a passport about where the bundle is from: how it was made, its parts, advisories, what changed."""

from __future__ import annotations

from packager.canonical import JSON
from packager.escape import html as escape
from packager.passport.forms import write_section, write_table


def write_provenance(facts: JSON) -> str:
    made = facts["provenance"]
    nodes = "".join(
        f"<li><strong>{escape(node['step'])}</strong>{escape(node['title'] or '')}"
        + (f"<br><small><code>{escape(node['digest'])}</code></small>" if node.get("digest") else "")
        + (_tools(node["tools"]) if node.get("tools") else "")
        + (f"<br><small>{node['parameters']:,} parameters</small>" if node.get("parameters") else "")
        + "</li>"
        for node in made["nodes"]
    )
    origin, publisher = facts["source"], made["publisher"]
    facts_of = [
        ("source signed by", f"{publisher['signer']} ({publisher['form']})" if publisher else None),
        ("built by", made["builder"]),
        ("run", made["invocation"]),
        ("registered as", f"{origin['name']} version {origin['version']}" if origin["name"] else None),
        ("address", origin["uri"]),
        ("confinement", (made["confinement"] or {}).get("level")),
    ]
    rows = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts_of if value)
    return write_section("provenance", f"<ol class='way'>{nodes}</ol><dl>{rows}</dl>")


def _tools(tools: JSON) -> str:
    rows = ", ".join(f"{escape(name)} {escape(version)}" for name, version in sorted(tools.items()))
    return f"<details><summary>{len(tools)} tools</summary>{rows}</details>"


def write_parts(facts: JSON) -> str:
    rows = "".join(
        f"<tr><td>{escape(row['name'])}</td><td>{escape(row['version'] or '')}</td><td>{escape(row['kind'])}</td>"
        f"<td>{escape(row['licence'] or 'none named')}</td><td>{escape(row['supplier'] or '')}</td>"
        f"<td><code>{escape((row['digest'] or '')[:16])}</code></td></tr>"
        for row in facts["components"]
    )
    counts = ", ".join(f"{escape(name)} ({count})" for name, count in facts["licences"].items())
    search = (
        "<p class='interactive' hidden><label for='components-search'>Find a component</label> "
        "<input type='search' id='components-search'> <span id='components-count' role='status'></span></p>"
    )
    heads = ("name", "version", "kind", "licence", "supplier", "sha256")
    table = write_table("The bill of materials", heads, rows, identity="components")
    return write_section("parts", f"<p>Licences: {counts}</p>{search}{table}")


def write_advisories(facts: JSON) -> str:
    found = facts["advisories"]
    if found is None:
        said = "<p>Not looked up: no advisory database is imported here (<code>packager vulndb import</code>).</p>"
        return write_section("advisories", said)
    database = found["database"]
    said = (
        f"<p class='soft'>By a database of {database['advisories']} advisories, the newest of "
        f"{escape(database['newest'])}.</p>"
    )
    rows = "".join(
        f"<tr><td>{escape(', '.join([hit['id'], *hit['aliases']]))}</td>"
        f"<td>{escape(hit['package'])} {escape(hit['version'])}</td><td>{escape(hit['severity'])}</td>"
        f"<td>{escape(', '.join(hit['fixed']))}</td></tr>"
        for hit in found["hits"]
    )
    if not rows:
        return write_section("advisories", said + "<p>None is known for the locked packages.</p>")
    return write_section("advisories", said + write_table("", ("advisory", "package", "severity", "fixed in"), rows))


def write_difference(facts: JSON) -> str:
    found = facts["difference"]
    if found is None:
        return write_section("difference", "<p class='soft'>No earlier version was given to compare with.</p>")
    rows = "".join(
        f"<tr><td>{escape(row['level'])}</td><td>{escape(row['area'])}</td><td>{escape(row['subject'])}</td>"
        f"<td>{escape(row['message'])}</td></tr>"
        for row in found["changes"]
    )
    step = (
        f"<p>From {escape(found['from'])} to {escape(found['to'])}: a step of "
        f"<strong>{escape(found['taken'])}</strong>; what changed needs <strong>{escape(found['needed'])}</strong>.</p>"
    )
    table = write_table("", ("level", "area", "subject", "change"), rows) if rows else "<p>No visible difference.</p>"
    return write_section("difference", step + table)

# SPDX-License-Identifier: Apache-2.0
"""Write a passport as one page of HTML: no request to anywhere, readable without its script, in print and by ear.

The script repeats in the reader's browser what the page claims. A Content-Security-Policy allows that script by its
digest and nothing else. Foreign text passes through `packager.escape`; data for the script is JSON whose `<` are
escaped, so that no text can end its element. Equal facts give equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources

from packager.canonical import JSON
from packager.escape import html as escape
from packager.passport.forms import SECTIONS, break_lines, format_size, write_section, write_table
from packager.passport.origin_sections import write_advisories, write_difference, write_parts, write_provenance
from packager.passport.use_sections import write_interface, write_knobs, write_needs, write_parity, write_runs

_LEVELS = {"error": "no", "warning": "unknown", "note": "skip"}
_FOOTER = (
    "<footer><p>Written by <code>packager report</code>. This page asks nothing of any network; what it says is what "
    "its bundle, the signed statements about it and this program's tables said when it was written.</p></footer>"
)


def write_page(facts: JSON, player: JSON | None = None) -> str:
    """Return the page for facts of `contents.describe_bundle`; `player` lets it run the model (`player.list_parts`)."""
    bundle = facts["bundle"]
    title = f"Passport of {bundle['name']} {bundle['version']}"
    style, script = (_asset(name) for name in ("passport.css", "passport.js"))
    carried = {"bundle": bundle, "evidence": facts["evidence"], "player": player}
    body = "".join(
        (
            _header(facts, title),
            "<main id='content'>",
            _signature(facts, player),
            _purpose(facts),
            _policy_section(facts),
            write_interface(facts),
            write_needs(facts),
            write_runs(facts),
            write_parity(facts),
            write_provenance(facts),
            write_parts(facts),
            write_advisories(facts),
            write_knobs(facts),
            write_difference(facts),
            "</main>",
            _FOOTER,
        )
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_content_policy(script, player)}">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>{body}"
        f'<script type="application/json" id="passport-data">{_data(carried)}</script>'
        f"<script>{script}</script></body></html>\n"
    )


def read_style() -> str:
    """Return the style sheet of the page."""
    return _asset("passport.css")


def _asset(name: str) -> str:
    return resources.files("packager.passport").joinpath(name).read_text()


def _content_policy(script: str, player: JSON | None) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    run = " blob: 'wasm-unsafe-eval'" if player else ""
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'{run}; form-action 'none'"


def _data(value: JSON) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).replace("<", "\\u003c")


# parts of the page


def _header(facts: JSON, title: str) -> str:
    bundle, about = facts["bundle"], facts["about"]
    said = f"<p>{escape(about['description'])}</p>" if about["description"] else ""
    by = ", ".join(about["authors"])
    lines = [
        f"digest <code>{escape(bundle['digest'])}</code>",
        *([f"licence {escape(about['licence'])}"] if about["licence"] else []),
        *([f"by {escape(by)}"] if by else []),
        f"{format_size(bundle['size'])} in {len(bundle['files'])} files",
    ]
    links = "".join(f'<li><a href="#{key}">{name}</a></li>' for key, name in SECTIONS)
    return (
        '<a class="skip-link" href="#content">To the content</a>'
        f"<header><h1>{escape(bundle['name'])} <small>{escape(bundle['version'])}</small></h1>{said}"
        f'<p class="soft">{" · ".join(lines)}</p><ul class="verdicts">{_verdicts(facts)}</ul></header>'
        f'<nav aria-label="Sections of {escape(title)}"><ul>{links}</ul></nav>'
    )


def _verdicts(facts: JSON) -> str:
    """Say the main answers first: signature, policy, measured exactness, promised runtimes, advisories."""
    rows = [_signature_verdict(facts["verification"])]
    policy = facts["policy"]
    if policy is not None:
        held = f"{len(policy['held'])} of {len(policy['rules'])} rules hold without a remark"
        rows.append((_word(policy["ok"]), f"Policy {policy['profile'] or ''}", held))
    measured = [row for row in facts["parity"] if row["output"] is not None]
    if measured:
        largest = max(row["max_abs"] for row in measured)
        cases = max(row["cases"] for row in measured)
        believed = "ok" if facts["verification"]["checked"] and facts["verification"]["ok"] else "unknown"
        rows.append((believed, "Measured by its build", f"largest difference {largest:.3g} in {cases} cases"))
    promised = [row for row in facts["compatibility"] if row["promised"]]
    if promised:
        fine = sum(row["outcome"] == "ok" for row in promised)
        outcomes = {row["outcome"] for row in promised}
        outcome = next(word for word in ("no", "unknown", "ok") if word in outcomes)
        rows.append((outcome, "Runs where promised", f"{fine} of {len(promised)} ranges of versions"))
    if facts["advisories"] is not None:
        hits = len(facts["advisories"]["hits"])
        rows.append((_word(not hits), "Known vulnerabilities", f"{hits} in its locked packages"))
    return "".join(
        f'<li><strong>{escape(name)}</strong><span class="badge {outcome}">{_mark(outcome)}</span> '
        f"{escape(detail)}</li>"
        for outcome, name, detail in rows
    )


def _signature_verdict(found: JSON) -> tuple[str, str, str]:
    if not found["checked"]:
        return "unknown", "Signature", f"not checked; {len(found['claimed'])} statements are attached"
    if found["ok"]:
        return "ok", "Signature", f"holds, by {', '.join(map(_short, found['signers']))}"
    return "no", "Signature", found["failure"]


def _short(signer: str) -> str:
    """Return an identity, of a key the first 16 digits of its fingerprint."""
    return signer[:16] if len(signer) == 64 and "@" not in signer else signer[:80]


def _word(holds: bool) -> str:
    return "ok" if holds else "no"


def _mark(outcome: str) -> str:
    return {"ok": "✓ yes", "no": "✗ no", "unknown": "? open"}[outcome]


def _signature(facts: JSON, player: JSON | None) -> str:
    found = facts["verification"]
    if found["checked"]:
        checks = "".join(
            f'<tr><td>{escape(row["check"])}</td><td><span class="badge {_word(row["ok"])}">'
            f"{'✓ holds' if row['ok'] else '✗ fails'}</span></td><td>{escape(row['detail'])}</td></tr>"
            for row in found["checks"]
        )
        said = write_table(
            f"Checked on {found['day']}, by the trust that was given", ("check", "result", "detail"), checks
        )
    else:
        said = (
            "<p>Signatures were <strong>not checked</strong> when this page was written: no trusted key or trust file "
            "was given.</p>"
        )
    rows = "".join(
        f"<tr><td>{escape(row['predicate_type'])}</td><td>{escape(row['claim'])}</td></tr>" for row in found["claimed"]
    )
    attached = write_table("What is attached, and who claims to have signed it", ("statement", "claimed signer"), rows)
    return write_section("signature", said + attached + _check_yourself(facts, player))


def _check_yourself(facts: JSON, player: JSON | None) -> str:
    keys = facts["evidence"]["keys"]
    given = ", ".join(f"<code>{escape(key['fingerprint'])}</code>" for key in keys)
    whose = (
        f"It uses the key that this page carries ({given}). The author of the page chose it: compare it with the "
        "fingerprint that you have from the publisher, or paste your own copy."
        if keys
        else "This page carries no key: paste the publisher's."
    )
    run = (
        '<h3 id="run">Run the model here</h3><p>The page carries the graph, its reference inputs and ONNX Runtime Web. '
        'Nothing is sent anywhere.</p><button type="button" id="run-model">Run the model</button>'
        '<p id="run-result" role="status"></p>'
        if player
        else ""
    )
    return (
        '<div class="interactive" hidden><h3>Check it yourself</h3>'
        f"<p>The script of this page checks the signatures again, in your browser. {whose}</p>"
        '<p id="signature-result" role="status"></p><ul id="signature-rows"></ul>'
        '<label for="own-key">Your copy of the public key (PEM)</label><textarea id="own-key" spellcheck="false">'
        '</textarea><p><button type="button" id="check-signatures">Check the signatures</button></p>'
        '<div class="drop" id="drop"><label for="bundle-file">Drop the bundle\'s <code>.bundle.tar</code> here, or '
        'choose it: is it byte for byte the bundle of this page?</label> <input type="file" id="bundle-file">'
        f'<p id="file-result" role="status"></p></div>{run}</div>'
    )


def _purpose(facts: JSON) -> str:
    about = facts["about"]
    rows = [
        ("task", about["task"]),
        ("intended use", "\n\n".join(about["intended_use"])),
        ("limitations", "\n\n".join(about["limitations"])),
        ("risks", "\n\n".join(about["risks"])),
        ("datasets", ", ".join(about["datasets"])),
        ("base models", ", ".join(about["base_models"])),
        ("stated results", ", ".join(_stated(metric) for metric in about["metrics"])),
    ]
    said = "".join(f"<dt>{name}</dt><dd>{break_lines(text)}</dd>" for name, text in rows if text)
    if not said:
        return write_section("purpose", "<p class='soft'>No model card says it (<code>card:</code> in the recipe).</p>")
    return write_section(
        "purpose", f"<p class='soft'>Declared by the publisher; nothing here was measured.</p><dl>{said}</dl>"
    )


def _stated(metric: JSON) -> str:
    part = f" ({metric['slice']})" if metric.get("slice") else ""
    return f"{metric.get('type')} {metric.get('value')}{part}"


def _policy_section(facts: JSON) -> str:
    found = facts["policy"]
    if found is None:
        return write_section("policy", "<p class='soft'>No policy was applied when this page was written.</p>")
    rows = "".join(
        f"<tr><td>{escape(row['rule'])}</td>"
        f"<td><span class='badge {_LEVELS[row['level']]}'>{escape(row['level'])}</span></td>"
        f"<td>{escape(row['message'])}{_waived(row)}</td></tr>"
        for row in found["findings"]
    )
    outcome = "it allows the bundle" if found["ok"] else "it refuses the bundle"
    said = f"<p>Profile <code>{escape(found['profile'])}</code>: {outcome}."
    held = f" Without a remark hold: {escape(', '.join(found['held']))}.</p>"
    return write_section("policy", said + held + (write_table("", ("rule", "level", "finding"), rows) if rows else ""))


def _waived(row: JSON) -> str:
    return f" <small>waived: {escape(json.dumps(row['waiver'], sort_keys=True))}</small>" if row.get("waiver") else ""

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
from collections.abc import Iterable, Sequence
from importlib import resources

from packager.canonical import JSON
from packager.escape import html as escape

_OUTCOMES = {"ok": "✓ runs", "no": "✗ does not run", "unknown": "? not known"}
_CELLS = {"pass": ("ok", "✓ passed"), "fail": ("no", "✗ failed"), "skip": ("skip", "– skipped")}
_LEVELS = {"error": "no", "warning": "unknown", "note": "skip"}
_SECTIONS = (
    ("signature", "Who signed it"),
    ("purpose", "What it is for"),
    ("policy", "What the policy says"),
    ("interface", "What it takes and returns"),
    ("needs", "What it needs"),
    ("runs", "Where it runs"),
    ("parity", "How exact it is"),
    ("provenance", "How it was made"),
    ("parts", "What it consists of"),
    ("advisories", "Known vulnerabilities"),
    ("knobs", "What can be set"),
    ("difference", "What changed"),
)
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
            _interface(facts),
            _needs(facts),
            _runs(facts),
            _parity(facts),
            _provenance(facts),
            _parts(facts),
            _advisories(facts),
            _knobs(facts),
            _difference(facts),
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
        f"{_size(bundle['size'])} in {len(bundle['files'])} files",
    ]
    links = "".join(f'<li><a href="#{key}">{name}</a></li>' for key, name in _SECTIONS)
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
        said = _table(f"Checked on {found['day']}, by the trust that was given", ("check", "result", "detail"), checks)
    else:
        said = (
            "<p>Signatures were <strong>not checked</strong> when this page was written: no trusted key or trust file "
            "was given.</p>"
        )
    rows = "".join(
        f"<tr><td>{escape(row['predicate_type'])}</td><td>{escape(row['claim'])}</td></tr>" for row in found["claimed"]
    )
    attached = _table("What is attached, and who claims to have signed it", ("statement", "claimed signer"), rows)
    return _section("signature", said + attached + _check_yourself(facts, player))


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
    said = "".join(f"<dt>{name}</dt><dd>{_lines(text)}</dd>" for name, text in rows if text)
    if not said:
        return _section("purpose", "<p class='soft'>No model card says it (<code>card:</code> in the recipe).</p>")
    return _section(
        "purpose", f"<p class='soft'>Declared by the publisher; nothing here was measured.</p><dl>{said}</dl>"
    )


def _stated(metric: JSON) -> str:
    part = f" ({metric['slice']})" if metric.get("slice") else ""
    return f"{metric.get('type')} {metric.get('value')}{part}"


def _lines(text: str) -> str:
    return "<br>".join(escape(line) for line in text.split("\n"))


def _policy_section(facts: JSON) -> str:
    found = facts["policy"]
    if found is None:
        return _section("policy", "<p class='soft'>No policy was applied when this page was written.</p>")
    rows = "".join(
        f"<tr><td>{escape(row['rule'])}</td>"
        f"<td><span class='badge {_LEVELS[row['level']]}'>{escape(row['level'])}</span></td>"
        f"<td>{escape(row['message'])}{_waived(row)}</td></tr>"
        for row in found["findings"]
    )
    outcome = "it allows the bundle" if found["ok"] else "it refuses the bundle"
    said = f"<p>Profile <code>{escape(found['profile'])}</code>: {outcome}."
    held = f" Without a remark hold: {escape(', '.join(found['held']))}.</p>"
    return _section("policy", said + held + (_table("", ("rule", "level", "finding"), rows) if rows else ""))


def _waived(row: JSON) -> str:
    return f" <small>waived: {escape(json.dumps(row['waiver'], sort_keys=True))}</small>" if row.get("waiver") else ""


def _interface(facts: JSON) -> str:
    interface = facts["interface"]
    rows = "".join(
        f"<tr><td>{kind}</td><td><code>{escape(port['name'])}</code></td><td>{escape(port['dtype'])}</td>"
        f"<td>{escape(' × '.join(map(str, port['shape'])) or 'scalar')}</td></tr>"
        for kind, ports in (("input", interface["inputs"]), ("output", interface["outputs"]))
        for port in ports
    )
    takes = "".join(f"<li>{escape(line)}</li>" for line in interface["takes"])
    said = _table("", ("", "name", "type", "shape"), rows) + (f"<ul>{takes}</ul>" if takes else "")
    return _section("interface", _generated(facts["generation"]) + _raw_inputs(facts["pipeline"]) + said)


def _generated(says: JSON) -> str:
    """Return what a language model takes and keeps, and its chat template, which is a program and shown as text."""
    if says is None:
        return ""
    rows = [
        ("generates", f"text, by {says['architecture']}"),
        ("context", f"{says['context']} tokens of prompt and answer together"),
        ("vocabulary", f"{says['vocabulary']} tokens"),
        ("cache", f"{says['cache']['bytes']} bytes for each token"),
        ("tokenizer", says["tokenizer"]),
    ]
    if how := says.get("decoding"):
        audio = says.get("audio")
        reads = f"{audio['seconds']} seconds of audio" if audio else f"texts of {how['source']} tokens"
        rows += [("reads", f"up to {reads}"), ("beams", str(how["beams"]))]
    listed = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in rows if text)
    template = says["chat_template"]
    shown = (
        f"<details><summary>chat template</summary><p><code>{_lines(template)}</code></p></details>" if template else ""
    )
    return f"<dl>{listed}</dl>{shown}"


def _raw_inputs(says: JSON) -> str:
    if says is None:
        return ""
    return (
        f"<p>It takes raw inputs ({escape(says['task'])}): {says['inputs']} were compared with "
        f"{escape(says['reference'])}, the largest difference is {says['largest']:g}.</p>"
    )


def _needs(facts: JSON) -> str:
    rows = "".join(
        f"<tr><td>{escape(row['name'])}</td><td>{escape(row['runtime'])} {escape(row['versions'] or '')}</td>"
        f"<td>{escape(row['device'])} {escape(', '.join(map(str, row['cpu'] or ())))}</td>"
        f"<td>{escape(row['precision'])}</td><td class='n'>{_memory(row['memory'])}</td>"
        f"<td>{escape(row['reproducibility'] or '')}</td></tr>"
        for row in facts["targets"]
    )
    heads = ("target", "runtime", "device", "precision", "memory", "reproducible")
    return _section("needs", _table("One row for each thing that can be served", heads, rows))


def _memory(memory: JSON) -> str:
    if not memory:
        return ""
    known = sum(value for key, value in memory.items() if key != "unknown" and isinstance(value, int))
    return f"{_size(known)}{' and more' if memory.get('unknown') else ''}"


def _runs(facts: JSON) -> str:
    rows = "".join(_span(row) for row in facts["compatibility"])
    heads = ("runtime", "versions", "target", "answer", "why")
    checked = facts["verification"]["checked"]
    caption = "What is known before anything is loaded" + (
        "" if checked else "; statements about runs were not checked"
    )
    said = _table(caption, heads, rows)
    cells = facts["conformance"]
    if cells:
        said += _table(
            "Conformance runs that are stated and signed",
            ("target", "runtime", "device", "result", "levels", "p50 ms", "requests/s"),
            "".join(_cell(row) for row in cells),
        )
    else:
        said += "<p class='soft'>No conformance run is stated about this bundle.</p>"
    return _section("runs", said)


def _span(row: JSON) -> str:
    why = "<br>".join(
        escape(reason["message"]) + (f" <small>→ {escape(reason['fix'])}</small>" if reason["fix"] else "")
        for reason in row["reasons"]
    )
    promised = " <small>promised</small>" if row["promised"] else ""
    return (
        f"<tr><td>{escape(row['runtime'])}</td><td>{escape(row['versions'])}{promised}</td>"
        f"<td>{escape(row['target'])}</td><td><span class='badge {row['outcome']}'>{_OUTCOMES[row['outcome']]}</span> "
        f"<small>{escape(row['source'])}</small></td><td>{why}</td></tr>"
    )


def _cell(row: JSON) -> str:
    style, word = _CELLS.get(row["outcome"], ("unknown", str(row["outcome"])))
    levels = ", ".join(f"{level} {outcome}" for level, outcome in sorted((row["levels"] or {}).items()))
    latency = (row["measures"]["latency_ms"] or {}).get("p50")
    rate = row["measures"]["throughput_rps"]
    return (
        f"<tr><td>{escape(row['target'])}</td><td>{escape(row['runtime'])} {escape(row['version'])}</td>"
        f"<td>{escape(row['device'])}</td><td><span class='badge {style}'>{escape(word)}</span> "
        f"<small>{escape(row['reason'] or '')}</small></td><td>{escape(levels)}</td>"
        f"<td class='n'>{_number(latency)}</td><td class='n'>{_number(rate)}</td></tr>"
    )


def _parity(facts: JSON) -> str:
    if not facts["parity"]:
        return _section("parity", "<p class='soft'>No provenance that could be read says what the build measured.</p>")
    rows = "".join(
        f"<tr><td>{escape(row['target'])}</td><td colspan='5'>not measured: {escape(row['unmeasured'])}</td></tr>"
        if row["output"] is None
        else f"<tr><td>{escape(row['target'])}</td><td><code>{escape(row['output'])}</code></td>"
        f"<td>{escape(row['dtype'])}</td><td class='n'>{row['cases']}</td><td class='n'>{row['max_abs']:.3g}</td>"
        f"<td class='n'>{row['unequal']}</td></tr>"
        for row in facts["parity"]
    )
    heads = ("target", "output", "type", "cases", "largest difference", "unequal elements")
    caption = "The source's own answers against the artefact's, measured by the build in confinement"
    return _section("parity", _table(caption, heads, rows, numbers={3, 4, 5}) + _accuracy(facts["accuracy"]))


def _accuracy(found: JSON) -> str:
    if not found:
        return ""
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(item['metric'])}</td><td>{escape(item['data'][:19])}</td>"
        f"<td class='n'>{item['rows']}</td>"
        f"<td class='n'>{item['bound']:g}</td><td class='n'>{_reached(item['source'])}</td>"
        f"<td class='n'>{_reached(item['target'])}</td><td>{_slice(item['worst'])}</td></tr>"
        for name, item in sorted(found.items())
    )
    heads = ("target", "metric", "data", "rows", "bound", "source", "target reaches", "worst slice")
    return _table("Accuracy on the data that the recipe names", heads, rows, numbers={3, 4, 5, 6})


def _reached(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _slice(found: JSON) -> str:
    if found is None:
        return ""
    place = f"{found['column']} = {found['value']}"
    return f"{escape(place)}: {_reached(found['target'])} (source {_reached(found['source'])}, {found['rows']} rows)"


def _provenance(facts: JSON) -> str:
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
    return _section("provenance", f"<ol class='way'>{nodes}</ol><dl>{rows}</dl>")


def _tools(tools: JSON) -> str:
    rows = ", ".join(f"{escape(name)} {escape(version)}" for name, version in sorted(tools.items()))
    return f"<details><summary>{len(tools)} tools</summary>{rows}</details>"


def _parts(facts: JSON) -> str:
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
    table = _table("The bill of materials", heads, rows, identity="components")
    return _section("parts", f"<p>Licences: {counts}</p>{search}{table}")


def _advisories(facts: JSON) -> str:
    found = facts["advisories"]
    if found is None:
        said = "<p>Not looked up: no advisory database is imported here (<code>packager vulndb import</code>).</p>"
        return _section("advisories", said)
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
        return _section("advisories", said + "<p>None is known for the locked packages.</p>")
    return _section("advisories", said + _table("", ("advisory", "package", "severity", "fixed in"), rows))


def _knobs(facts: JSON) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(row['name'])}</code></td><td>{escape(_setting(row['default']))}</td>"
        f"<td>{escape(_bounds(row))}</td><td>{escape(row['description'] or '')}</td></tr>"
        for row in facts["knobs"]
    )
    table = _table("", ("knob", "default", "allowed", "meaning"), rows)
    return _section("knobs", f"<details><summary>{len(facts['knobs'])} knobs</summary>{table}</details>")


def _setting(value: JSON) -> str:
    return "unset" if value is None else json.dumps(value)


def _bounds(row: JSON) -> str:
    if row["enum"]:
        return ", ".join(map(str, row["enum"]))
    ends = [f"{value:g}" for value in (row["minimum"], row["maximum"]) if value is not None]
    return " to ".join(ends) + (f" {row['unit']}" if row["unit"] else "")


def _difference(facts: JSON) -> str:
    found = facts["difference"]
    if found is None:
        return _section("difference", "<p class='soft'>No earlier version was given to compare with.</p>")
    rows = "".join(
        f"<tr><td>{escape(row['level'])}</td><td>{escape(row['area'])}</td><td>{escape(row['subject'])}</td>"
        f"<td>{escape(row['message'])}</td></tr>"
        for row in found["changes"]
    )
    step = (
        f"<p>From {escape(found['from'])} to {escape(found['to'])}: a step of "
        f"<strong>{escape(found['taken'])}</strong>; what changed needs <strong>{escape(found['needed'])}</strong>.</p>"
    )
    table = _table("", ("level", "area", "subject", "change"), rows) if rows else "<p>No visible difference.</p>"
    return _section("difference", step + table)


# forms


def _section(key: str, content: str) -> str:
    heading = f'<h2 id="{key}-title">{dict(_SECTIONS)[key]}</h2>'
    return f'<section id="{key}" aria-labelledby="{key}-title">{heading}{content}</section>'


def _table(
    caption: str, heads: Sequence[str], rows: str, *, identity: str | None = None, numbers: Iterable[int] = ()
) -> str:
    right = set(numbers)
    cells = "".join(
        f'<th scope="col"{" class=n" if index in right else ""}>{escape(head)}</th>' if head else "<td></td>"
        for index, head in enumerate(heads)
    )
    name = f' id="{identity}"' if identity else ""
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    label = escape(caption or ", ".join(head for head in heads if head))
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{label}"><table{name}>{said}'
        f"<thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _number(value: JSON) -> str:
    return "" if value is None else f"{value:.3g}"

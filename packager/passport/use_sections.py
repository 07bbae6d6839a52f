# SPDX-License-Identifier: Apache-2.0
"""The sections of a passport for users of the bundle: what it takes, needs and reaches, where it runs, its knobs."""

from __future__ import annotations

import json

from packager.canonical import JSON
from packager.escape import html as escape
from packager.passport.forms import break_lines, format_number, format_size, write_section, write_table

_OUTCOMES = {"ok": "✓ runs", "no": "✗ does not run", "unknown": "? not known"}
_CELLS = {"pass": ("ok", "✓ passed"), "fail": ("no", "✗ failed"), "skip": ("skip", "– skipped")}


def write_interface(facts: JSON) -> str:
    interface = facts["interface"]
    rows = "".join(
        f"<tr><td>{kind}</td><td><code>{escape(port['name'])}</code></td><td>{escape(port['dtype'])}</td>"
        f"<td>{escape(' × '.join(map(str, port['shape'])) or 'scalar')}</td></tr>"
        for kind, ports in (("input", interface["inputs"]), ("output", interface["outputs"]))
        for port in ports
    )
    takes = "".join(f"<li>{escape(line)}</li>" for line in interface["takes"])
    said = write_table("", ("", "name", "type", "shape"), rows) + (f"<ul>{takes}</ul>" if takes else "")
    return write_section("interface", _generated(facts["generation"]) + _raw_inputs(facts["pipeline"]) + said)


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
        f"<details><summary>chat template</summary><p><code>{break_lines(template)}</code></p></details>"
        if template
        else ""
    )
    return f"<dl>{listed}</dl>{shown}"


def _raw_inputs(says: JSON) -> str:
    if says is None:
        return ""
    return (
        f"<p>It takes raw inputs ({escape(says['task'])}): {says['inputs']} were compared with "
        f"{escape(says['reference'])}, the largest difference is {says['largest']:g}.</p>"
    )


def write_needs(facts: JSON) -> str:
    rows = "".join(
        f"<tr><td>{escape(row['name'])}</td><td>{escape(row['runtime'])} {escape(row['versions'] or '')}</td>"
        f"<td>{escape(row['device'])} {escape(', '.join(map(str, row['cpu'] or ())))}</td>"
        f"<td>{escape(', '.join(filter(None, (row['precision'], row['quantised']))))}</td>"
        f"<td class='n'>{_memory(row['memory'])}</td>"
        f"<td>{escape(row['reproducibility'] or '')}</td></tr>"
        for row in facts["targets"]
    )
    heads = ("target", "runtime", "device", "precision", "memory", "reproducible")
    return write_section("needs", write_table("One row for each thing that can be served", heads, rows))


def _memory(memory: JSON) -> str:
    if not memory:
        return ""
    known = memory.get("peak") or memory.get("weights", 0) + memory.get("activations", 0)
    return f"{format_size(known)}{' and more' if memory.get('unknown') else ''}"


def write_runs(facts: JSON) -> str:
    rows = "".join(_span(row) for row in facts["compatibility"])
    heads = ("runtime", "versions", "target", "answer", "why")
    checked = facts["verification"]["checked"]
    caption = "What is known before anything is loaded" + (
        "" if checked else "; statements about runs were not checked"
    )
    said = write_table(caption, heads, rows)
    cells = facts["conformance"]
    if cells:
        said += write_table(
            "Conformance runs that are stated and signed",
            ("target", "runtime", "device", "result", "levels", "p50 ms", "requests/s"),
            "".join(_cell(row) for row in cells),
        )
    else:
        said += "<p class='soft'>No conformance run is stated about this bundle.</p>"
    return write_section("runs", said)


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
        f"<td class='n'>{format_number(latency)}</td><td class='n'>{format_number(rate)}</td></tr>"
    )


def write_parity(facts: JSON) -> str:
    if not facts["parity"]:
        return write_section(
            "parity", "<p class='soft'>No provenance that could be read says what the build measured.</p>"
        )
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
    return write_section("parity", write_table(caption, heads, rows, numbers={3, 4, 5}) + _accuracy(facts["accuracy"]))


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
    return write_table("Accuracy on the data that the recipe names", heads, rows, numbers={3, 4, 5, 6})


def _reached(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _slice(found: JSON) -> str:
    if found is None:
        return ""
    place = f"{found['column']} = {found['value']}"
    return f"{escape(place)}: {_reached(found['target'])} (source {_reached(found['source'])}, {found['rows']} rows)"


def write_knobs(facts: JSON) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(row['name'])}</code></td><td>{escape(_setting(row['default']))}</td>"
        f"<td>{escape(_bounds(row))}</td><td>{escape(row['description'] or '')}</td></tr>"
        for row in facts["knobs"]
    )
    table = write_table("", ("knob", "default", "allowed", "meaning"), rows)
    return write_section("knobs", f"<details><summary>{len(facts['knobs'])} knobs</summary>{table}</details>")


def _setting(value: JSON) -> str:
    return "unset" if value is None else json.dumps(value)


def _bounds(row: JSON) -> str:
    if row["enum"]:
        return ", ".join(map(str, row["enum"]))
    ends = [f"{value:g}" for value in (row["minimum"], row["maximum"]) if value is not None]
    return " to ".join(ends) + (f" {row['unit']}" if row["unit"] else "")

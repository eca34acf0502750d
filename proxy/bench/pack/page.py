"""One self-contained HTML page of a report: no script, no network, readable on a desk and on a phone.

Must not: compute a figure that the JSON does not hold. Invariant: every number stands in a `data-path` element whose
`data-value` is the JSON's at that path; text of models, users or servers is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from proxy.bench.pack import charts
from proxy.bench.pack.charts import curves, validity

LIGHT = ("#0b6e99", "#c2410c", "#15803d", "#7e22ce", "#8a5a00", "#be123c", "#475569", "#0f766e")
DARK = ("#38bdf8", "#fb923c", "#4ade80", "#c084fc", "#facc15", "#fb7185", "#cbd5e1", "#2dd4bf")
"""As many as charts.COLOURS; each stands out from its paper."""


def _palette(colours: Sequence[str]) -> str:
    return ";".join(f"--c{number}:{colour}" for number, colour in enumerate(colours))


STYLE = (
    f"""
:root{{color-scheme:light dark;--ink:#1b1f24;--paper:#fff;--faint:#596372;--line:#d0d5dd;--good:#15803d;--bad:#b42318;
{_palette(LIGHT)}}}
@media(prefers-color-scheme:dark){{:root{{--ink:#e6e8eb;--paper:#14171a;--faint:#a3adba;--line:#344054;--good:#4ade80;
--bad:#f97066;{_palette(DARK)}}}}}"""
    """
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:80rem;margin:0 auto;padding:1rem}h1{font-size:1.5rem;margin:.5rem 0}
h2{font-size:1.15rem;margin:2rem 0 .5rem}h3{font-size:1rem;margin:1.25rem 0 .25rem}
.advice{border-left:4px solid var(--c0);padding:.5rem 1rem;margin:1rem 0;overflow-wrap:anywhere}
.faint{color:var(--faint);font-size:.85rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.875rem;min-width:100%}
th,td{padding:.35rem .5rem;vertical-align:top;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:var(--paper)}
td .faint{display:block;font-size:.8rem}th{vertical-align:bottom;white-space:normal}
.words{text-align:left;white-space:normal;min-width:16rem}
.hint{display:none}
@media(max-width:58rem){.hint{display:block}.stack thead{display:none}.stack tr{display:block;padding:.4rem 0;
border-bottom:1px solid var(--line)}.stack td{display:block;text-align:left;white-space:normal;padding:.1rem 0;
border:0;position:static;min-width:0;overflow-wrap:anywhere}.stack td[data-label]::before{content:attr(data-label) ": ";
color:var(--faint)}.stack td:first-child{font-weight:600}}
.holds{color:var(--good)}.missed{color:var(--bad);font-weight:600}
dl{display:grid;grid-template-columns:auto 1fr;gap:.1rem 1rem;font-size:.85rem;margin:0}dt{color:var(--faint)}
dd,li{margin:0;overflow-wrap:anywhere}ul{margin:.25rem 0;padding-left:1.25rem;font-size:.875rem}
""" + charts.STYLE
)
PARTS = (
    ("seconds", "loop s", 1.0),
    ("prefill", "prefill t/s", 1.0),
    ("decode", "decode t/s", 1.0),
    ("acceptance", "accepted %", 100.0),
    ("valid", "calls valid %", 100.0),
    ("passed", "pass %", 100.0),
    ("first_edit_s", "first edit s", 1.0),
    ("loops", "loops", 1.0),
    ("trips", "guard", 1.0),
    ("fallbacks", "fallbacks", 1.0),
    ("failures", "failed", 1.0),
    ("unknown_names", "unknown names", 1.0),
    ("lines_off", "lines off", 1.0),
)


def page(plain: Mapping[str, Any]) -> str:
    """plain: a report's JSON data."""
    data = plain["data"]
    body = [
        "<h1>specguard benchmark pack</h1>",
        f'<div class="advice"><strong>{escape(data["recommendation"]["mode"] or "no recommendation")}</strong><br>'
        f"{escape(data['recommendation']['words'])}</div>",
        _verdicts(data["recommendation"]["verdicts"]),
        _bars(plain),
        '<h2>Modes by workload</h2><p class="faint">Below a figure: what chance leaves open, at 95 %.</p>'
        '<p class="faint hint">These tables are wider than the screen: move them sideways.</p>',
        *(_workload(data, key, title) for key, title in data["titles"].items()),
        validity(data),
        curves(data),
        _memory(data),
        _unmeasured(plain["unmeasured"]),
        "<h2>What was run</h2><dl>",
        *(f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>" for k, v in plain["settings"].items()),
        "</dl>",
    ]
    if data["stopped"]:
        body.insert(1, '<p class="missed">Stopped early: not every mode has met every workload.</p>')
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>specguard benchmark pack</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _number(value: float | int | None, path: Sequence[str | int], scale: float = 1.0, more: str = "") -> str:
    """path: where in the JSON's `data` the value stands."""
    if value is None:
        return "-"
    shown = value * scale
    text = f"{shown:.0f}" if abs(shown) >= 100 or shown == int(shown) else f"{shown:.3g}"
    where = escape("/".join(str(part) for part in path), quote=True)
    return f'<span data-path="{where}" data-value="{value!r}">{text}</span>{more}'


def _workload(data: Mapping[str, Any], key: str, title: str) -> str:
    rows = []
    for mode, own in data["modes"].items():
        if key not in own:
            continue
        cells = []
        for part, _, scale in PARTS:
            value, path = own[key][part], ["modes", mode, key, part]
            more = ""
            if isinstance(value, Mapping):
                low, high = value["low"] * scale, value["high"] * scale
                chance = "once" if low == high and value["of"] == 1 else f"{low:.0f}-{high:.0f}"
                more = f' <span class="faint">{chance}</span>'
                value, path = value["value"], [*path, "value"]
            cells.append(f"<td>{_number(value, path, scale, more)}</td>")
        rows.append(f"<tr><td>{escape(mode)}</td>{''.join(cells)}</tr>")
    head = "".join(f"<th>{escape(_kept(name))}</th>" for _, name, _ in PARTS)
    return (
        f'<h3>{escape(title)}</h3><div class="wide" tabindex="0"><table><thead><tr><th>mode</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _kept(name: str) -> str:
    """No line ends before a unit."""
    words, _, unit = name.rpartition(" ")
    return f"{words}\u00a0{unit}" if unit in ("s", "%", "t/s") else name


def _verdicts(verdicts: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for number, one in enumerate(verdicts):
        path: list[str | int] = ["recommendation", "verdicts", number]
        more = ""
        if one["low"] is not None:
            low, high = (_number(one[name], [*path, name]) for name in ("low", "high"))
            more = f' <span class="faint">{low}-{high}</span>'
        time = _number(one["time"], [*path, "time"], 1.0, more)
        told = escape("; ".join(one["against"])) or '<span class="holds">sound</span>'
        rows.append(
            f'<tr><td>{escape(one["mode"])}</td><td data-label="of plain&#39;s time">{time}</td>'
            f'<td class="words">{told}</td></tr>'
        )
    return (
        '<div class="wide"><table class="stack"><thead><tr><th>mode</th><th>of plain\'s time</th>'
        '<th class="words">what speaks against it</th></tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _bars(plain: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><td>{escape(bar["name"])}</td><td data-label="target">{escape(bar["target"])}</td>'
        f'<td data-label="measured">{bar["measured"]:.3g}</td>'
        f'<td class="{"holds" if bar["holds"] else "missed"}">{"holds" if bar["holds"] else "missed"}</td></tr>'
        for bar in plain["bars"]
    )
    head = "<thead><tr><th>bar</th><th>target</th><th>measured</th><th></th></tr></thead>"
    return (
        f'<h2>Bars</h2><div class="wide"><table class="stack">{head}<tbody>{rows}</tbody></table></div>' if rows else ""
    )


def _memory(data: Mapping[str, Any]) -> str:
    """What the caches of a prompt hold and, where the engine ran on a CUDA device, what that held."""
    parts = [
        ("kv", "tokens", "prompt tokens", 1.0),
        ("kv", "bytes", "KV KiB", 1 / 1024),
        ("vram", "allocated", "VRAM MiB, allocated", 2.0**-20),
        ("vram", "reserved", "VRAM MiB, reserved", 2.0**-20),
    ]
    parts = [part for part in parts if data[part[0]]]
    rows = [
        f"<tr><td>{escape(mode)}</td>"
        + "".join(
            f"<td>{_number(data[kind].get(mode, {}).get(name), [kind, mode, name], scale)}</td>"
            for kind, name, _, scale in parts
        )
        + "</tr>"
        for mode in dict.fromkeys([*data["kv"], *data["vram"]])
    ]
    head = "".join(f"<th>{title}</th>" for _, _, title, _ in parts)
    return (
        f'<h2>Memory</h2><div class="wide" tabindex="0"><table><thead><tr><th>mode</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        if rows
        else ""
    )


def _unmeasured(reasons: Mapping[str, str]) -> str:
    rows = "".join(f"<li>{escape(name)}: {escape(why)}</li>" for name, why in reasons.items())
    return f"<h2>Not measured</h2><ul>{rows}</ul>" if rows else ""

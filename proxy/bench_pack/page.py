"""One self-contained HTML page of a report: no script, no network, readable on a desk and on a phone.

Must not: compute a figure that the JSON does not hold. Invariant: every number stands in a `data-path` element whose
`data-value` is the JSON's at that path; text of models, users or servers is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

COLOURS = ("#0b6e99", "#c2410c", "#15803d", "#7e22ce", "#a16207", "#be123c", "#334155", "#0f766e")
STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--paper:#fff;--faint:#667085;--line:#d0d5dd;--good:#15803d;--bad:#b42318}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8eb;--paper:#14171a;--faint:#98a2b3;--line:#344054;--good:#4ade80;
--bad:#f97066}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:72rem;margin:0 auto;padding:1rem}h1{font-size:1.5rem;margin:.5rem 0}
h2{font-size:1.15rem;margin:2rem 0 .5rem}
.advice{border-left:4px solid #0b6e99;padding:.5rem 1rem;margin:1rem 0}.faint{color:var(--faint);font-size:.85rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.875rem;min-width:100%}
th,td{padding:.35rem .6rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:var(--paper)}
td.words{text-align:left;white-space:normal;min-width:16rem}
.holds{color:var(--good)}.missed{color:var(--bad);font-weight:600}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:1rem}
figure{margin:0}svg{width:100%;height:auto;display:block}svg text{fill:var(--faint);font-size:11px}
dl{display:grid;grid-template-columns:auto 1fr;gap:.1rem 1rem;font-size:.85rem;margin:0}dt{color:var(--faint)}
dd{margin:0;overflow-wrap:anywhere}.key{display:inline-block;margin-right:1rem;font-size:.85rem;white-space:nowrap}
.key::before{content:"";display:inline-block;width:.8em;height:.8em;margin-right:.35em;background:var(--c);border-radius:2px}
"""
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
)


def page(plain: Mapping[str, Any]) -> str:
    """plain: a report's JSON data."""
    data = plain["data"]
    modes = list(data["modes"])
    body = [
        "<h1>specguard benchmark pack</h1>",
        f'<div class="advice"><strong>{escape(data["recommendation"]["mode"] or "no recommendation")}</strong><br>'
        f"{escape(data['recommendation']['words'])}</div>",
        _verdicts(data["recommendation"]["verdicts"]),
        _bars(plain),
        "<h2>Modes by workload</h2>",
        *(_workload(data, key, title) for key, title in data["titles"].items()),
        _validity(data),
        _curves(data, modes),
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
    text = f"{shown:.0f}" if isinstance(value, int) or abs(shown) >= 100 else f"{shown:.3g}"
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
    head = "".join(f"<th>{escape(name)}</th>" for _, name, _ in PARTS)
    return (
        f'<h2>{escape(title)}</h2><div class="wide"><table><thead><tr><th>mode</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _verdicts(verdicts: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for number, one in enumerate(verdicts):
        time = _number(one["time"], ["recommendation", "verdicts", number, "time"])
        told = escape("; ".join(one["against"])) or '<span class="holds">sound</span>'
        rows.append(f'<tr><td>{escape(one["mode"])}</td><td>{time}</td><td class="words">{told}</td></tr>')
    return (
        '<div class="wide"><table><thead><tr><th>mode</th><th>of plain\'s time</th><th>what speaks against it</th></tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _bars(plain: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(bar['name'])}</td><td>{escape(bar['target'])}</td><td>{bar['measured']:.3g}</td>"
        f'<td class="{"holds" if bar["holds"] else "missed"}">{"holds" if bar["holds"] else "missed"}</td></tr>'
        for bar in plain["bars"]
    )
    return f'<h2>Bars</h2><div class="wide"><table><tbody>{rows}</tbody></table></div>' if rows else ""


def _validity(data: Mapping[str, Any]) -> str:
    """A bar for each mode: of all calls of all workloads that make some, how many are valid; each workload its own."""
    rows = [
        (mode, key, own[key]["valid"])
        for key in data["titles"]
        for mode, own in data["modes"].items()
        if key in own and own[key]["valid"] is not None
    ]
    if not rows:
        return ""
    height, left, width = 18, 210, 640
    shapes = []
    for row, (mode, key, rate) in enumerate(rows):
        y, long = row * height, rate["value"] * (width - left - 90)
        path = escape(f"modes/{mode}/{key}/valid/value", quote=True)
        colour = COLOURS[list(data["modes"]).index(mode) % len(COLOURS)]
        shapes.append(
            f'<text x="0" y="{y + 13}">{escape(key)} · {escape(mode)}</text>'
            f'<rect x="{left}" y="{y + 3}" width="{long:.1f}" height="12" fill="{colour}" data-path="{path}" '
            f'data-value="{rate["value"]!r}"/>'
            f'<text x="{left + long + 6:.1f}" y="{y + 13}">{100 * rate["value"]:.0f} % of {rate["of"]}</text>'
        )
    return (
        f'<h2>Valid tool calls</h2><figure><svg viewBox="0 0 {width} {len(rows) * height + 4}" role="img" '
        f'aria-label="valid tool calls by workload and mode">{"".join(shapes)}</svg></figure>'
    )


def _curves(data: Mapping[str, Any], modes: Sequence[str]) -> str:
    sweep = {mode: points for mode, points in data["sweep"].items() if points}
    if not sweep:
        return ""
    keys = "".join(
        f'<span class="key" style="--c:{COLOURS[modes.index(mode) % len(COLOURS)]}">{escape(mode)}</span>'
        for mode in sweep
    )
    charts = [
        _chart(sweep, modes, part, title, scale)
        for part, title, scale in (
            ("decode", "decode, tokens/s", 1.0),
            ("prefill", "prefill, tokens/s", 1.0),
            ("acceptance", "accepted drafts, %", 100.0),
            ("passed", "repairs that pass, %", 100.0),
        )
    ]
    return f'<h2>By length of context</h2><p>{keys}</p><div class="charts">{"".join(charts)}</div>'


def _chart(sweep: Mapping[str, Any], modes: Sequence[str], part: str, title: str, scale: float) -> str:
    series = {
        mode: [
            (point["tokens"], point["figures"][part]["value"], ("sweep", mode, i, "figures", part, "value"))
            for i, point in enumerate(points)
            if point["figures"][part] is not None
        ]
        for mode, points in sweep.items()
    }
    values = [value * scale for points in series.values() for _, value, _ in points]
    lengths = [tokens for points in series.values() for tokens, _, _ in points]
    if not values:
        return ""
    top: float = max(values) * 1.1 or 1.0
    most: float = max(lengths)
    width, height, left, bottom = 360, 200, 42, 26

    def x(tokens: float) -> float:
        return left + (width - left - 12) * tokens / most

    def y(value: float) -> float:
        return height - bottom - (height - bottom - 14) * value * scale / top

    shapes = [
        f'<line x1="{left}" x2="{width}" y1="{height - bottom}" y2="{height - bottom}" stroke="var(--line)"/>',
        f'<text x="0" y="14">{top:.0f}</text><text x="0" y="{height - bottom}">0</text>',
        *(f'<text x="{x(t):.0f}" y="{height - 8}" text-anchor="middle">{t}</text>' for t in sorted(set(lengths))),
    ]
    for mode, points in series.items():
        colour = COLOURS[modes.index(mode) % len(COLOURS)]
        line = " ".join(f"{x(tokens):.1f},{y(value):.1f}" for tokens, value, _ in points)
        shapes.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        shapes += [
            f'<circle cx="{x(tokens):.1f}" cy="{y(value):.1f}" r="3" fill="{colour}" '
            f'data-path="{escape("/".join(map(str, path)), quote=True)}" data-value="{value!r}">'
            f"<title>{escape(mode)}, {tokens} tokens: {value * scale:.3g}</title></circle>"
            for tokens, value, path in points
        ]
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{"".join(shapes)}</svg>'
        "</figure>"
    )

"""The drawings of the page: bars of valid calls, and curves over the length of context.

Must not: compute a figure that the JSON does not hold, or tell modes apart by colour alone.
Invariant: as of the page: a shape names the JSON's path and value; every text can be read at every width of the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import floor, log10
from typing import Any

COLOURS = 8
"""`--c0` and following in the page's style, one set for light and one for dark."""
DASHES = ("", "7 3", "2 3", "9 3 2 3")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 480, 240, 52, 34, 16
LABEL = 52
"""Room that a length takes below a chart."""
CURVES = (
    ("decode", "decode, tokens/s", 1.0),
    ("prefill", "prefill, tokens/s", 1.0),
    ("acceptance", "accepted drafts, %", 100.0),
    ("passed", "repairs that pass, %", 100.0),
)
STYLE = """
.rates{display:grid;grid-template-columns:minmax(6rem,max-content) 1fr max-content;gap:.2rem .75rem;font-size:.875rem}
.rates h3{grid-column:1/-1;font-size:.9rem;margin:.75rem 0 0}
.rate{align-self:center;background:var(--line);border-radius:3px;height:.8rem}
.rate>span{display:block;height:100%;border-radius:3px;background:var(--c)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1.25rem}
figure{margin:0}figcaption{font-size:.9rem}svg{width:100%;height:auto;display:block}
svg text{fill:var(--faint);font-size:13px}@media(max-width:58rem){svg text{font-size:17px}}
.keys{display:flex;flex-wrap:wrap;gap:.25rem 1rem;font-size:.85rem;margin:.5rem 0}
.key{display:flex;align-items:center;gap:.4rem}.key svg{width:2.2rem;flex:none}
"""


def validity(data: Mapping[str, Any]) -> str:
    """Of the calls of each workload that makes some, how many are valid: a bar for each mode, never a sum."""
    parts = []
    for key, title in data["titles"].items():
        rated = [(mode, own[key]["valid"]) for mode, own in data["modes"].items() if key in own]
        rows = [_rate(list(data["modes"]), mode, key, rate) for mode, rate in rated if rate is not None]
        if rows:
            parts.append(f"<h3>{escape(title)}</h3>{''.join(rows)}")
    return f'<h2>Valid tool calls</h2><div class="rates">{"".join(parts)}</div>' if parts else ""


def _rate(modes: Sequence[str], mode: str, key: str, rate: Mapping[str, Any]) -> str:
    path = escape(f"modes/{mode}/{key}/valid/value", quote=True)
    share = 100 * rate["value"]
    return (
        f'<div>{escape(mode)}</div><div class="rate chart" role="img" aria-label="{share:.0f} %">'
        f'<span class="bar" style="width:{share:.1f}%;--c:{_colour(modes, mode)}" data-path="{path}" '
        f'data-value="{rate["value"]!r}"></span></div><div>{share:.0f} % of {rate["of"]}</div>'
    )


def curves(data: Mapping[str, Any]) -> str:
    sweep = {mode: points for mode, points in data["sweep"].items() if points}
    if not sweep:
        return ""
    modes = list(data["modes"])
    keys = "".join(f'<span class="key">{_sample(modes, mode)}{escape(mode)}</span>' for mode in sweep)
    charts = [_chart(sweep, modes, part, title, scale) for part, title, scale in CURVES]
    cliffs = "".join(f"<li>{escape(mode)}: {_cliff(found)}</li>" for mode, found in data["cliff"].items())
    return (
        f'<h2>By length of context, in tokens</h2><div class="keys">{keys}</div>'
        f'<div class="charts">{"".join(charts)}</div>'
        '<h3>Context cliff</h3><p class="faint">The first length with less than half of what the shortest has.</p>'
        f"<ul>{cliffs}</ul>"
    )


def _cliff(found: Mapping[str, int | None]) -> str:
    told = [f"{what} from {found[name]} tokens" for name, what in (("passed", "repairs"), ("decode", "speed"))
            if found[name] is not None]  # fmt: skip
    return ", ".join(told) or "none up to the longest here"


def _sample(modes: Sequence[str], mode: str) -> str:
    return (
        f'<svg viewBox="0 0 36 10" aria-hidden="true"><line x1="0" x2="36" y1="5" y2="5" {_stroke(modes, mode)}/></svg>'
    )


def _colour(modes: Sequence[str], mode: str) -> str:
    return f"var(--c{modes.index(mode) % COLOURS})"


def _stroke(modes: Sequence[str], mode: str) -> str:
    dash = DASHES[modes.index(mode) % len(DASHES)]
    return f'stroke="{_colour(modes, mode)}" stroke-width="2.5"' + (f' stroke-dasharray="{dash}"' if dash else "")


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
    top = 100.0 if scale == 100.0 else _above(max(values))
    most: float = max(lengths)
    right, floor_y = WIDTH - LABEL / 2, HEIGHT - BOTTOM

    def x(tokens: float) -> float:
        return LEFT + (right - LEFT) * tokens / most

    def y(value: float) -> float:
        return floor_y - (floor_y - TOP) * value * scale / top

    shapes = []
    for share in (0.0, 0.5, 1.0):
        at = y(top * share / scale)
        shapes.append(f'<line x1="{LEFT}" x2="{WIDTH}" y1="{at:.1f}" y2="{at:.1f}" stroke="var(--line)"/>')
        shapes.append(f'<text x="{LEFT - 6}" y="{at + 5:.1f}" text-anchor="end">{_short(top * share)}</text>')
    shapes += [f'<text x="{x(t):.1f}" y="{HEIGHT - 10}" text-anchor="middle">{t}</text>' for t in _apart(lengths, x)]
    for mode, points in series.items():
        dot = max(3, 7 - modes.index(mode))  # smaller and smaller, so that one on another hides none
        line = " ".join(f"{x(tokens):.1f},{y(value):.1f}" for tokens, value, _ in points)
        if len(points) > 1:
            shapes.append(f'<polyline points="{line}" fill="none" {_stroke(modes, mode)}/>')
        shapes += [
            f'<circle cx="{x(tokens):.1f}" cy="{y(value):.1f}" r="{dot}" fill="{_colour(modes, mode)}" '
            f'data-path="{escape("/".join(map(str, path)), quote=True)}" data-value="{value!r}">'
            f"<title>{escape(mode)}, {tokens} tokens: {value * scale:.3g}</title></circle>"
            for tokens, value, path in points
        ]
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)} by tokens of '
        f'context">{"".join(shapes)}</svg></figure>'
    )


def _short(value: float) -> str:
    """With few characters: 2500, 20k, 4M."""
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e4 else f"{value:g}"


def _above(value: float) -> float:
    """The next round number, so that half of it is one too."""
    if value <= 0:
        return 1.0
    power: float = pow(10.0, float(floor(log10(value))))
    steps = [step * power for step in (1, 2, 4, 6, 8, 10)]
    return next(step for step in steps if step >= value)


def _apart(lengths: Sequence[int], x: Any) -> list[int]:
    """Those that can stand beside each other; the longest is always there."""
    kept: list[int] = []
    for length in sorted(set(lengths), reverse=True):
        if not kept or x(kept[-1]) - x(length) >= LABEL:
            kept.append(length)
    return kept

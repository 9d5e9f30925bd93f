"""The bars as a picture: how far each was reached, on a logarithmic axis of ratios."""

import html
import math

from .cells import NAMES
from .report import number, peers

WIDTH, LEFT, RIGHT = 1000, 420, 140
ROW, GAP = 22, 30
LOW, HIGH = 0.1, 10
COLOURS = {True: "#2a7f62", False: "#c2512d", None: "#7d8ca3"}
STYLE = """text{font:13px sans-serif;fill:#222}.head{font-weight:bold}.small{font-size:11px;fill:#666}
.end{text-anchor:end}.middle{text-anchor:middle}"""


def place(ratio):
    """Where a ratio stands on the axis."""
    share = (math.log(min(max(ratio, LOW), HIGH)) - math.log(LOW)) / (math.log(HIGH) - math.log(LOW))
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def rows(cell):
    """(label, ratio, bar's factor or None, at least, holds); absolute bars as a share of what is allowed."""
    found = []
    for bar in cell["bars"]:
        if bar["reached"] is None:
            continue
        name = "" if bar["own"] == "ringnbd" else f"{bar['own']}: "
        if bar["against"]:
            found.append((f"{name}{NAMES[bar['metric']]} / {bar['against']}", bar["reached"], bar["factor"], bar["at_least"],
                          bar["holds"]))
        else:
            label = f"{name}{NAMES[bar['metric']]} / {number(bar['factor'])}"
            found.append((label, bar["reached"] / bar["factor"], 1, bar["at_least"], bar["holds"]))
    against = {bar["against"] for bar in cell["bars"] if bar["metric"] in ("iops", "mb_per_second")}
    own = cell["results"].get("ringnbd")
    for name in peers(cell["results"]) if own else []:
        if name not in against:
            found.append((f"IOPS / {name}", own["iops"] / cell["results"][name]["iops"], None, True, None))
    return found


def draw(row, y):
    label, ratio, factor, at_least, holds = row
    start, end = sorted((place(1), place(ratio)))
    parts = [f'<text class="end" x="{LEFT - 10}" y="{y + 14}">{html.escape(label)}</text>',
             f'<rect x="{start:.1f}" y="{y + 4}" width="{max(end - start, 1):.1f}" height="{ROW - 8}" fill="{COLOURS[holds]}"/>']
    text = f"{number(ratio)} ×"
    if factor is not None:
        x, sign = place(factor), "≥" if at_least else "≤"
        parts.append(f'<path d="M{x:.1f} {y}v{ROW}" stroke="#111" stroke-width="2.5"/>')
        text += f"  (bar {sign} {number(factor)})"
    parts.append(f'<text x="{WIDTH - RIGHT + 10}" y="{y + 14}">{text}</text>')
    return parts


def chart(outcome):
    """An SVG of all cells that have something to compare."""
    parts, y = [], 64
    for cell in outcome["cells"].values():
        found = rows(cell)
        if not found:
            continue
        parts.append(f'<text class="head" x="14" y="{y + 16}">{html.escape(cell["title"])}</text>')
        y += 24
        for row in found:
            parts += draw(row, y)
            y += ROW
        y += GAP - ROW + 4
    machine = outcome["machine"]
    note = (f"medians of {outcome['rounds']} rounds of {outcome['seconds']:g} s; {machine['cpu']}, {machine['usable_cpus']} CPUs, "
            f"Linux {machine['kernel']}, {outcome['date'][:10]}")
    grid = []
    for ratio in (0.1, 0.2, 0.5, 1, 2, 5, 10):
        x, colour = place(ratio), "#888" if ratio == 1 else "#ddd"
        grid.append(f'<path d="M{x:.1f} 52V{y}" stroke="{colour}"/>')
        grid.append(f'<text class="small middle" x="{x:.1f}" y="46">{ratio:g} ×</text>')
    title = ('<text class="head" x="14" y="22">ringnbd in relation to others: the black mark is the bar, green holds, '
             'red does not, grey has none</text>')
    foot = f'<text class="small" x="14" y="{y + 20}">{html.escape(note)}</text>'
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 34}" width="{WIDTH}" height="{y + 34}">'
            f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>'
            + "\n".join([title, *grid, *parts, foot]) + "</svg>\n")

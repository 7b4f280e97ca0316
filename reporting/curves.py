"""The curves of metrics.csv as small drawings inside the page (SVG): sharp at any size, with text that can be searched."""

from __future__ import annotations

import math
from html import escape
from typing import NamedTuple, Sequence

from common.files import finite
from reporting.reader import Run

Points = Sequence[tuple]  # of (x, y), both finite floats

WIDTH, HEIGHT = 400, 230  # of a drawing, in units of which a letter is 12 high
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 8, 38  # margins
# Of metrics.csv: the mean training loss of a quarter of the timesteps.
QUARTERS = {
    "loss_q1": "lowest t: 1 .. T/4",
    "loss_q2": "T/4 .. T/2",
    "loss_q3": "T/2 .. 3T/4",
    "loss_q4": "highest t: 3T/4 .. T",
}
MAX_POINTS = 300  # of a curve: more cannot be seen
WITH_DOTS = 40  # up to so many points, each has a dot that tells its value when it is pointed at
# Colours of loss.png, and dashes that tell the curves apart in a print without colour.
COLOURS = ("#1f5fa8", "#d1495b")
SHADES = ("#440154", "#31688e", "#35a06b", "#b98900")
DASHES = ("", "6 3", "2 3", "8 3 2 3")


class Curve(NamedTuple):
    """A line of a drawing."""

    label: str
    colour: str
    dash: str
    points: Points


def curves(run: Run) -> str:
    """Loss, loss by timestep, and speed, each with its newest values; "" without numbers."""

    def points(key: str) -> Points:
        found = [(finite(row.get(run.unit)), finite(row.get(key))) for row in run.rows]
        found = [(x, y) for x, y in found if x is not None and y is not None and max(abs(x), abs(y)) < 1e100]
        stride = max(1, math.ceil(len(found) / MAX_POINTS))
        return found[::-1][::stride][::-1]  # the last one stays

    named = [("training", "train_loss"), ("validation", "val_loss")]
    losses = [Curve(label, *look, points(key)) for (label, key), look in zip(named, zip(COLOURS, DASHES))]
    quarters = [Curve(label, *look, points(key)) for (key, label), look in zip(QUARTERS.items(), zip(SHADES, DASHES))]
    speed = [Curve(f"{run.things} per second", COLOURS[0], "", points("images_per_second"))]
    parts = [
        drawing("Mean loss", run.unit, losses),
        drawing("Training loss by timestep", run.unit, quarters),
        drawing("Speed", run.unit, speed, from_zero=True),
    ]
    content = "".join(part for part in parts if part)
    return f'<div class="curves">\n{content}</div>\n' if content else ""


def drawing(title: str, x_name: str, lines: Sequence[Curve], from_zero: bool = False) -> str:
    """Curves over one axis, with a legend that gives the newest value of each; "" if no curve has points.

    The vertical axis is logarithmic, unless a value is not positive, or it shall begin at zero.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    ys = [y for line in lines for _, y in line.points]
    xs = [x for line in lines for x, _ in line.points]
    log = min(ys) > 1e-100 and not from_zero
    y_ticks = _log_ticks(min(ys), max(ys)) if log else _ticks(min(0.0, min(ys)) if from_zero else min(ys), max(ys))
    low, high = min(*ys, *y_ticks), max(*ys, *y_ticks)
    first, last = min(xs), max(xs)

    def x_at(x: float) -> float:
        part = (x - first) / (last - first) if last > first else 0.5
        return LEFT + 8 + part * (WIDTH - LEFT - RIGHT - 16)

    def y_at(y: float) -> float:
        a, b, c = (math.log(v) for v in (low, y, high)) if log else (low, y, high)
        return HEIGHT - BOTTOM - ((b - a) / (c - a) if c > a else 0.5) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for y in y_ticks:
        parts.append(f'<path d="M{LEFT} {y_at(y):.1f}H{WIDTH - RIGHT}" stroke="#e1e4e8"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y_at(y) + 4:.1f}" text-anchor="end">{_short(y)}</text>')
    for x in [x for x in _ticks(first, last, whole=True) if first <= x <= last]:
        parts.append(f'<text x="{x_at(x):.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{_short(x)}</text>')
    parts.append(f'<path d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}" stroke="#575f68"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x_name)}</text>')
    for line in lines:
        path = "L".join(f"{x_at(x):.1f} {y_at(y):.1f}" for x, y in line.points)
        parts.append(f'<path d="M{path}" {_look(line)}/>')
        if len(line.points) <= WITH_DOTS:
            parts += [
                f'<circle cx="{x_at(x):.1f}" cy="{y_at(y):.1f}" r="3" fill="{line.colour}">'
                f"<title>{escape(line.label)}, {escape(x_name)} {_short(x)}: {y:.4g}</title></circle>"
                for x, y in line.points
            ]
    told = "; ".join(
        f"{line.label} from {line.points[0][1]:.4g} at {x_name} {_short(line.points[0][0])} "
        f"to {line.points[-1][1]:.4g} at {x_name} {_short(line.points[-1][0])}"
        for line in lines
    )
    scale = " (log scale)" if log else ""
    return (
        f"<div>\n<h3>{escape(title)}{scale}</h3>\n"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{title}: {told}")}" '
        f'font-size="12" fill="#575f68">{"".join(parts)}</svg>\n{_legend(lines)}</div>\n'
    )


def _legend(lines: Sequence[Curve]) -> str:
    items = (
        f'<li><svg viewBox="0 0 32 8" aria-hidden="true"><path d="M0 4H32" {_look(line)}/></svg>'
        f"{escape(line.label)} <b>{line.points[-1][1]:.4g}</b></li>"
        for line in lines
    )
    return f'<ul class="legend">{"".join(items)}</ul>\n'


def _look(line: Curve) -> str:
    dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
    return f'fill="none" stroke="{line.colour}" stroke-width="2" stroke-linejoin="round"{dash}'


def _ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """At most about 8 round numbers that cover [low, high], or lie in it if they shall be whole."""
    if not high > low:
        return [low]
    rough = (high - low) / 6
    if not 0 < rough < math.inf:
        return [low, high]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((m * power for m in (1, 2, 5, 10) if m * power >= rough), rough)
    step = max(1.0, step) if whole else step
    first, last = math.floor(low / step), math.ceil(high / step)
    ticks = [k * step for k in range(first, min(last, first + 12) + 1)]
    return ticks if all(map(math.isfinite, ticks)) else [low, high]


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers that cover [low, high], both positive; at most about 6."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        values = [digit * 10.0**decade for decade in decades for digit in digits]
        inside = [value for value in values if low <= value <= high]
        below, above = [v for v in values if v < low][-1:], [v for v in values if v > high][:1]
        if len(inside) <= 5:
            ticks = below + inside + above
            return ticks if len(ticks) > 1 else [low, high]
    return values[:: max(1, len(values) // 5)]


def _short(value: float) -> str:
    """A number as short as an axis needs it: 0.05, 200, 10k."""
    if abs(value) >= 10_000:
        return f"{value / 1000:,.6g}k" if abs(value) < 1e6 else f"{value:.3g}"
    return f"{value:.4g}"

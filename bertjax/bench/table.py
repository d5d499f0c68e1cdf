"""Price lists for readers: Markdown tables and a plot on logarithmic axes."""

import math
import pathlib
from collections.abc import Sequence
from typing import Any

UNITS = {
    "seconds": ("Time", "ms", 1e3),
    "bytes": ("Memory", "MB", 1e-6),
    "flops": ("Operations", "GFLOP", 1e-9),
}
MISSING = "–"  # known to need more memory than was allowed
UNSAID = ("lengths", "code")  # the columns say the one, and the other says nothing to a reader


def markdown(about: dict[str, Any], lines: Sequence[Any]) -> str:
    """A summary, and one table a price: a line for each variant, a column for each length, and the exponent."""
    facts = ", ".join(f"{name} {value}" for name, value in about.items() if name not in UNSAID)
    parts = ["# What attentions cost", f"One block, forward and backward, for one row. {facts}."]
    parts += ["## Summary", summary(about, lines)]
    for what, (title, unit, scale) in UNITS.items():
        lengths = list(lines[0].prices)
        head = ["variant", "parameters", "F", *(f"{length} tokens" for length in lengths), "exponent"]
        body = []
        for line in sorted(lines, key=lambda line: (line.growth[what] is None, line.growth[what] or 0.0)):
            values = [getattr(line.prices[length], what) for length in lengths]
            cells = [MISSING if value is None else number(value * scale) for value in values]
            body.append(
                [line.name, f"{line.parameters:,.0f}", str(line.feedforward), *cells, grown(line, what)]
            )
        parts += [f"## {title} ({unit})", table(head, body)]
    return "\n\n".join(parts) + "\n"


def summary(about: dict[str, Any], lines: Sequence[Any]) -> str:
    """Of each variant the parameters, the time that full attention takes 1.00 of, and how time and memory grow."""
    full: dict[int, Any] = next((line.prices for line in lines if line.name == "full"), {})
    lengths = [n for n in (about["equal_length"], about["fit_to"]) if n in full and full[n].seconds]
    head = ["variant", "parameters", *(f"time, {n} tokens" for n in lengths), "time grows", "memory grows"]
    body = []
    for line in sorted(lines, key=lambda line: line.growth["bytes"] or 0.0):
        times = [(line.prices[n].seconds, full[n].seconds) for n in lengths]
        shares = [MISSING if ours is None else f"{ours / theirs:.2f}" for ours, theirs in times]
        growth = (grown(line, what) for what in ("seconds", "bytes"))
        body.append([line.name, f"{line.parameters:,.0f}", *shares, *growth])
    return table(head, body)


def grown(line: Any, what: str) -> str:
    """The exponent of a price."""
    return MISSING if line.growth[what] is None else f"{line.growth[what]:.2f}"


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table with numbers to the right."""
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *body))


def number(value: float) -> str:
    """Three significant digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def plot(lines: Sequence[Any], path: pathlib.Path) -> None:
    """Time and memory over the length, both axes logarithmic; every line ends in its name and its exponent."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lengths = list(lines[0].prices)
    styles = [
        (color, dash, mark)
        for dash, mark in (("-", "o"), ("--", "s"), (":", "^"))
        for color in pyplot.get_cmap("tab10").colors
    ]
    height = max(5.0, 1.5 + 0.24 * len(lines))
    figure, axes = pyplot.subplots(1, 2, figsize=(16, height), layout="constrained")
    for axis, what in zip(axes, ("seconds", "bytes"), strict=True):
        title, unit, scale = UNITS[what]
        drawn = []
        for index, line in enumerate(lines):
            color, dash, mark = styles[index % len(styles)]
            points = [(n, getattr(p, what) * scale) for n, p in line.prices.items() if getattr(p, what)]
            if points:
                axis.plot(
                    *zip(*points, strict=True), dash, marker=mark, color=color, markersize=3.5, linewidth=1.2
                )
                drawn.append((line, points, styles[index % len(styles)]))
        axis.set(xscale="log", yscale="log", xlabel="tokens in a row", ylabel=f"{title} of one row ({unit})")
        axis.set_xticks(lengths, [str(n) for n in lengths])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        _guides(axis, [points for _, points, _ in drawn], lengths)
        _label_ends(axis, what, drawn)
    figure.suptitle("One block, forward and backward: variant and exponent")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _guides(axis: Any, drawn: Sequence[Sequence[tuple[int, float]]], lengths: Sequence[int]) -> None:
    """Slopes 1 and 2, below all lines, to hold these against."""
    if not drawn or len(lengths) < 2:
        return
    first, last = min(lengths), max(lengths)
    least = 0.7 * min(value for points in drawn for length, value in points if length == points[0][0])
    for slope in (1, 2):
        end = least * (last / first) ** slope
        axis.plot([first, last], [least, end], color="0.8", linewidth=4, zorder=0)
        axis.annotate(
            f"slope {slope}",
            (last, end),
            xytext=(-4, -14),
            textcoords="offset points",
            ha="right",
            color="0.5",
        )


def _label_ends(axis: Any, what: str, drawn: Sequence[Any]) -> None:
    """A name beside the end of every line, no two of which overlap, each with a thread to its line."""
    low, high = (math.log(y) for y in axis.get_ylim())
    order = sorted(drawn, key=lambda item: item[1][-1][1])
    wanted = [(math.log(points[-1][1]) - low) / (high - low) for _, points, _ in order]
    left, right = (math.log(x) for x in axis.get_xlim())
    for (line, points, (color, dash, mark)), place in zip(
        order, spread(wanted, 1 / max(30, len(wanted))), strict=True
    ):
        end = (math.log(points[-1][0]) - left) / (right - left)
        at = (math.log(points[-1][1]) - low) / (high - low)
        frame: Any = {"transform": axis.transAxes, "clip_on": False}
        axis.plot([end, 1.04], [at, place], color=color, linewidth=0.5, alpha=0.6, **frame)
        axis.plot(
            [1.04, 1.08, 1.12],
            [place] * 3,
            dash,
            marker=mark,
            markevery=[1],
            markersize=3.5,
            color=color,
            **frame,
        )
        label = f"{line.name}  {grown(line, what)}"
        axis.text(1.13, place, label, transform=axis.transAxes, va="center", fontsize=8.5, color=color)


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Ascending places from 0 to 1, `gap` apart, near the wanted ones: neighbours that touch share what they lack."""
    clusters: list[tuple[float, int]] = []  # (mean of what is wanted, how many)

    def first(mean: float, size: int) -> float:
        """Where the lowest of a cluster lies."""
        return min(max(mean - gap * (size - 1) / 2, 0.0), 1.0 - gap * (size - 1))

    for place in wanted:
        clusters.append((place, 1))
        while len(clusters) > 1 and first(*clusters[-1]) < first(*clusters[-2]) + gap * clusters[-2][1]:
            (low, few), (high, more) = clusters[-2:]
            clusters[-2:] = [((low * few + high * more) / (few + more), few + more)]
    return [first(mean, size) + gap * i for mean, size in clusters for i in range(size)]

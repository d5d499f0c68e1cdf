"""What is written of rows: a Markdown table, all numbers as JSON, and a plot.

Table and numbers are written after every row, so that a run that is cut short keeps what it has. A suite goes on from
there: rows that the same code has measured under the same conditions are not measured again.
"""

import dataclasses
import importlib.metadata
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from bertjax.bench import known
from bertjax.bench.contest import Result, Times, run
from bertjax.bench.machine import processor
from bertjax.bench.row import Row
from bertjax.bench.table import MISSING, table
from bertjax.data.files import replace_file
from bertjax.data.workers import available_cores
from bertjax.journal import scaled

HEAD = (
    *("what", "ours", "beside", "theirs", "ratio", "goal (aim)", "most", "real tokens/s"),
    *("TFLOP/s", "of a matmul (goal)", "of its matmuls", "memory, ours and theirs"),
)


def measure_rows(
    rows: Sequence[Row],
    *,
    rounds: int,
    seconds: float,
    out: str,
    name: str,
    suite: Sequence[Row] = (),
) -> list[Result]:
    """Measures rows one after the other; prints each and writes NAME.md, .json and .png into a folder.

    Rows of a `suite` that the folder holds already stay there, in the suite's order.
    """
    folder = pathlib.Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out={out} cannot be a folder: {error.strerror}; name another") from None
    about, numbers = header(rounds, seconds), folder / f"{name}.json"
    found = restore(numbers, about, suite)
    order = [*suite] or [*rows]
    for row in rows:
        if row in (result.row for result in found):
            print(f"{row.name}: known, in {numbers}", flush=True)
            continue
        found.append(run(row, rounds=rounds, seconds=seconds))
        for line in sentences(found[-1]):
            print(line, flush=True)
        found.sort(key=lambda result: order.index(result.row))
        data = {"about": about, "rows": [result.as_json() for result in found]}
        replace_file(str(numbers), (json.dumps(data, indent=1) + "\n").encode())
        replace_file(str(folder / f"{name}.md"), markdown(found).encode())
    plot(found, folder / f"{name}.png")
    print(f"written to {folder}/{name}.md, .json and .png")
    return found


def header(rounds: int, seconds: float) -> dict[str, Any]:
    """What a measurement holds for."""
    versions = {}
    for library in ("jax", "jaxlib", "flax", "torch", "transformers"):
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = "not installed"
    return {
        "rounds": rounds,
        "seconds": seconds,
        "machine": f"{processor()}, {available_cores()} cores",
        **versions,
        "code": known.digest_of_code(known.CODE_OF_STEPS),
    }


def restore(path: pathlib.Path, about: dict[str, Any], suite: Sequence[Row]) -> list[Result]:
    """Those rows of a suite that a file holds for just this, in the suite's order."""
    if not suite:
        return []
    kept = known.read(path, about, "rows")
    found = []
    for row in suite:
        said = json.loads(json.dumps(dataclasses.asdict(row)))  # tuples are lists there
        found += [Result.from_json(row, data) for data in kept if data["row"] == said][:1]
    return found


def sentences(result: Result) -> Iterator[str]:
    """A row, for the terminal."""
    ours = result.ours
    yield f"{result.row.name}: {span(ours.times)} a step of ours, {scaled(result.tokens_per_second)} real tokens/s"
    yield (
        f"    {result.flops_per_second / 1e12:.3g} TFLOP/s, {result.utilization:.2f} of one large matmul, "
        f"{result.of_skeleton:.2f} of its own matmuls alone, {ours.memory / 2**30:.2f} GiB"
    )
    for name, side in result.peers.items():
        ratios, speed = result.ratios(name), result.matmul_speed(name)
        yield (
            f"    {name} {span(side.times)}, {side.memory / 2**30:.2f} GiB: ratio {ratios.median:.2f} "
            f"({spread(ratios)}), most {result.most(name).median:.2f}"
            + ("" if speed is None else f", their matmul {speed:.2f} of ours")
        )
    errors = {"ours": ours.errors, **{name: side.errors for name, side in result.peers.items()}}
    for name, found in errors.items():
        if found:
            said = ", ".join(f"{what} {value:.1e}" for what, value in found.items())
            yield f"    {name} differs from float32 by: {said}"
    if result.void:
        yield f"    VOID: {result.void}"


def spread(times: Times) -> str:
    """From the least to the most."""
    return " to ".join(f"{x:.2f}" for x in times.spread)


def span(times: Times) -> str:
    """Milliseconds or seconds: the median, and from the least to the most."""
    unit, scale = ("s", 1.0) if times.median >= 1 else ("ms", 1e3)
    numbers = [
        f"{x * scale:.3g}" if x * scale < 100 else f"{x * scale:.0f}" for x in (times.median, *times.spread)
    ]
    return f"{numbers[0]} {unit} ({numbers[1]} to {numbers[2]})"


def markdown(results: Sequence[Result]) -> str:
    """One table, and what it was measured with."""
    body = [list(cells) for result in results for cells in lines(result)]
    facts = {
        name: value for result in results for side in sides(result) for name, value in side.facts.items()
    }
    versions = ", ".join(
        f"{name} {facts[name]}" for name in ("jax", "flax", "torch", "transformers") if name in facts
    )
    where = f"{facts['device']}, {facts['cores']} cores" if facts["platform"] == "cpu" else facts["device"]
    rounds = len(results[0].ours.times.rounds)
    about = (
        f"Measured on {where}, with {versions}; median of {rounds} rounds, turn by turn, and from the "
        f"least to the most. A ratio above 1 says how many times as fast ours is; the most it could be is that of our "
        f"useful operations alone, at the speed of one large matmul of ours."
    )
    return table(HEAD, body) + f"\n\n{about}\n"


def sides(result: Result) -> list[Any]:
    """Ours and the others."""
    return [result.ours, *result.peers.values()]


def lines(result: Result) -> Iterator[tuple[str, ...]]:
    """The cells of a result: a line for each peer, or one without."""
    row = result.row
    goal = MISSING if row.goal is None else f"{row.goal:g}" + ("" if row.aim is None else f" ({row.aim:g})")
    names: list[str | None] = [*result.peers] or [None]
    for name in names:
        peer = None if name is None else result.peers[name]
        ratio = most = MISSING
        if name is not None and result.void is None:
            most = f"{result.most(name).median:.2f}"
            ratio = f"{result.ratios(name).median:.2f} ({spread(result.ratios(name))})"
        yield (
            row.name,
            span(result.ours.times),
            name or MISSING,
            MISSING if peer is None else span(peer.times),
            f"void: {result.void}" if result.void else ratio,
            goal,
            most,
            scaled(result.tokens_per_second),
            f"{result.flops_per_second / 1e12:.3g}",
            f"{result.utilization:.2f}" + ("" if row.share is None else f" ({row.share:.2f})"),
            f"{result.of_skeleton:.2f}",
            " and ".join(f"{side.memory / 2**30:.2f}" for side in (result.ours, peer) if side) + " GiB",
        )


def plot(results: Sequence[Result], path: pathlib.Path) -> None:
    """Ratios as bars with their spread, the goals as marks; left out where matplotlib is not installed."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        print("no plot: matplotlib is not installed")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars = [(result, name) for result in results for name in result.peers if not result.void]
    figure, axis = pyplot.subplots(figsize=(9, 1.2 + 0.5 * len(bars)), layout="constrained")
    for index, (result, name) in enumerate(bars):
        ratios = result.ratios(name)
        low, high = ratios.spread
        axis.barh(
            index, ratios.median, color="tab:blue" if name == "transformers" else "tab:cyan", height=0.6
        )
        axis.plot([low, high], [index, index], color="black", linewidth=1.2)
        if result.row.goal is not None:
            axis.plot([result.row.goal] * 2, [index - 0.4, index + 0.4], color="tab:red", linewidth=2)
    axis.axvline(1.0, color="0.6", linewidth=1, zorder=0)
    axis.set_yticks(
        range(len(bars)), [f"{result.row.name}\nbeside {name}" for result, name in bars], fontsize=8
    )
    axis.invert_yaxis()
    axis.set_xlabel("times as fast as the peer (line: least to most; red: goal)")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)

"""Pictures of a run, drawn from what it wrote."""

import json
import pathlib
from typing import Any


def read_metrics(workdir: str) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    with (pathlib.Path(workdir) / "metrics.jsonl").open() as file:
        return [json.loads(line) for line in file]


def plot_losses(workdir: str, title: str) -> str:
    """Draws every loss, training and held-out, over the steps; returns the path of the PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = read_metrics(workdir)
    names = sorted({name for line in lines for name in line if name.split("heldout_")[-1].endswith("_loss")})
    tasks = sorted({name.removeprefix("heldout_") for name in names})
    figure, axes = pyplot.subplots(
        1, len(tasks), figsize=(5 * len(tasks), 3.6), squeeze=False, layout="constrained"
    )
    for axis, task in zip(axes[0], tasks, strict=True):
        for name, style, label in ((task, "-", "training"), (f"heldout_{task}", "o-", "held out")):
            points = [(line["step"], line[name]) for line in lines if name in line]
            if points:
                axis.plot(*zip(*points, strict=True), style, label=label, markersize=4, linewidth=1.2)
        axis.set(title=f"{task.removesuffix('_loss')} loss", xlabel="step")
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    figure.suptitle(title)
    path = pathlib.Path(workdir) / "loss.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return str(path)

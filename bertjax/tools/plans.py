"""python -m bertjax plans: the table of plans in the README, and the predicted weak scaling, each by one command."""

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from typing import Any, Literal

from bertjax import settings
from bertjax.plan.report import gigabytes, milliseconds
from bertjax.plan.roofline import REACHED

USAGE = """usage: python -m bertjax plans [--show=table|scaling|communication] [options]

Plans the encoders of experiments/pretrain for TPU pods, one after the other, with the real compiler (libtpu) and
without a TPU: about a minute each on one core. The last one needs no libtpu. `bench compile` measures how long a step
takes to compile over depth and over machines.

    python -m bertjax plans                         the table of the README
    python -m bertjax plans --topologies=v5e-256    some of the table
    python -m bertjax plans --show=scaling          16 to 256 chips, as many tokens a chip, and the arithmetic
    python -m bertjax plans --show=communication    what a device sends on 1 to 8 data shards (forced CPU devices)"""

FUSED = ("model.scan=true", "model.dtype=bfloat16", "model.attention_dropout=0")
LARGE = (*FUSED, "mesh.rules=fsdp", "mesh.fsdp=16")
ROWS, LAST = "train.batch_size=2048", "train.phases="  # of two phases the one with rows of 512

# (experiment, what is set). The published recipes are float32 with dropout on the attention: neither is for a TPU pod,
# whose matrix unit takes bfloat16 and whose fused attention has no dropout.
EXPERIMENTS: dict[str, tuple[str, ...]] = {
    "bert_base": (*FUSED, ROWS, LAST),
    "bert_large": (*LARGE, ROWS, LAST),
    "bert_1b5": (ROWS,),
}


@dataclasses.dataclass(frozen=True)
class PlansOptions:
    """Which plans."""

    show: Literal["table", "scaling", "communication"] = "table"
    """The table of plans, or how time grows with chips, or communication with data shards."""
    experiments: tuple[str, ...] = tuple(EXPERIMENTS)
    """Files of experiments/pretrain."""
    topologies: tuple[str, ...] = ("v5e:16x16", "v5p:2x4x4", "v5p:4x4x4", "v6e:16x16")
    """Machines of the table; v5p:2x4x4 is what the cloud calls v5p-64, v5p:4x4x4 is 64 chips."""
    scaling: tuple[str, ...] = ("v5e:4x4", "v5e:16x16")
    """Machines that are compared, the smaller first."""
    tokens: int = 2560
    """Tokens a chip of the comparison."""
    out: str = "runs/plans"
    """Folder of the plans, one a file; a plan that is there is not made again."""


def main(argv: list[str]) -> int:
    """Runs the tool."""
    options = settings.from_arguments(PlansOptions(), argv, {}, USAGE)
    match options.show:
        case "table":
            return table(options)
        case "scaling":
            return scaling(options)
        case "communication":
            return sent()


def table(options: PlansOptions) -> int:
    """Prints the table in Markdown; 1 if something does not fit with a tenth to spare."""
    print(
        "| experiment | chips | mesh | memory a device | fits | collectives sent | step | MFU | compiled in |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    tight = 0
    for experiment in options.experiments:
        for topology in options.topologies:
            made = one(options, experiment, topology, EXPERIMENTS.get(experiment, ()))
            print(row(experiment, made), flush=True)
            tight += not made["fits"] or made["memory"]["used"] > 0.9
    return 1 if tight else 0


def row(experiment: str, made: dict[str, Any]) -> str:
    """One line of the table."""
    memory, guess = made["memory"], made["estimate"]
    mesh = " x ".join(f"{axis}={n}" for axis, n in made["mesh"].items())
    spare = f"{1 - memory['used']:.0%} to spare" if memory["fits"] else "no"
    sent = sum(line["wire"] for line in made["collectives"])
    return " | ".join(
        (
            f"| `{experiment}`, {made['parameters'] / 1e6:,.0f} M",
            f"`{made['topology']}`: {made['chips']} x {made['chip'].removeprefix('TPU ')}",
            f"{mesh}, remat {made['remat']}",
            f"{gigabytes(made['bytes_per_device']['total'])} of {gigabytes(memory['available'])}",
            spare,
            f"{sent / 2**30:.2f} GiB",
            milliseconds(guess["step_seconds"]),
            f"{guess['mfu']:.0%}",
            f"{made['compile_seconds']:.0f} s |",
        )
    )


def scaling(options: PlansOptions) -> int:
    """Prints the arithmetic of weak scaling for every experiment; 1 where less than 0.9 is kept."""
    from bertjax.plan import find

    low = 0
    for experiment in options.experiments:
        plans = []
        for name in options.scaling:
            rows = max(options.tokens // 512, 1) * find(name).chips
            rest = [s for s in EXPERIMENTS.get(experiment, ()) if not s.startswith("train.batch_size")]
            plans.append(one(options, experiment, name, (*rest, f"train.batch_size={rows}"), "scaling"))
        low += weak(experiment, plans[0], plans[1]) < 0.9
    return 1 if low else 0


def weak(experiment: str, few: dict[str, Any], many: dict[str, Any]) -> float:
    """Prints how long a step takes on few and on many chips with as many tokens a chip, and returns the ratio.

    Larger slices have links that close to rings and smaller ones have not. The ratio gives no credit for that: the
    network of the many chips is taken to be as fast, for a byte, as that of the few.
    """
    print(f"{experiment}: {few['parameters']:,} parameters, {few['attention']}, remat {few['remat']}")
    times = []
    wires = [sum(line["wire"] for line in made["collectives"]) for made in (few, many)]
    speed = wires[0] / few["estimate"]["network_seconds"]
    for made, wire in zip((few, many), wires, strict=True):
        guess, tokens = made["estimate"], made["tokens_per_step"] / made["chips"]
        network = max(wire / speed, guess["network_seconds"])
        busy = max(guess["compute_seconds"], guess["memory_seconds"])
        times.append(busy + network)
        print(
            f"  {made['topology']:10} {made['chips']:4} chips x {tokens:,.0f} tokens: compute "
            f"{milliseconds(guess['compute_seconds'])} (products at {REACHED:.0%} of the peak), memory "
            f"{milliseconds(guess['memory_seconds'])}, network {wire / 1e9:.3f} GB at {speed / 1e9:.0f} GB/s = "
            f"{milliseconds(network)}; step = max(compute, memory) + network = {milliseconds(times[-1])}"
        )
    kept = times[0] / times[1]
    print(
        f"  weak scaling {few['chips']} -> {many['chips']} chips: {times[0]:.6f} / {times[1]:.6f} = {kept:.3f}"
    )
    return kept


def sent() -> int:
    """Prints what a device sends on more and more data shards; 1 if it is more than an all-reduce must."""
    from bertjax.plan import find
    from bertjax.plan.growth import communication
    from bertjax.plan.topology import devices_of

    config, vocabulary = _small()
    devices, worst = devices_of(find("cpu:8")), 0.0
    print("data shards   sent a device and step   of the gradients   2 (n - 1) / n")
    for shards in (1, 2, 4, 8):
        made = communication(config, vocabulary, shards, devices)
        print(f"{shards:11}   {made.wire / 2**20:18.2f} MiB   {made.share:16.4f}   {made.bound:13.4f}")
        worst = max(worst, made.share - made.bound)
    return 1 if worst > 0.01 else 0


def _small() -> tuple[Any, Any]:
    """An encoder that compiles in seconds, with matrices of its own for its logits."""
    from bertjax.config import CHOICES, Config
    from bertjax.data.open import open_vocabulary

    # A tied table is in two products, whose gradients CPUs sum over the shards one by one.
    small = ("model=mini", "model.vocab=4096", "model.tied=false", "model.scan=true", "train.batch_size=2")
    config = settings.override(Config(), small, CHOICES)
    return config, open_vocabulary(config.data.corpus, config.model.vocab)


def one(
    options: PlansOptions, experiment: str, topology: str, assignments: tuple[str, ...], kind: str = "table"
) -> dict[str, Any]:
    """A plan, made by the experiment's own command in a process of its own unless it is there already."""
    workdir = pathlib.Path(options.out, kind, experiment, topology.replace(":", "-"))
    file, command = workdir / "plan.json", workdir / "command"
    flags = [f"--mode=plan --topology={topology} --workdir={workdir}", *(f"--set {a}" for a in assignments)]
    asked = f"python -m experiments.pretrain.{experiment} {' '.join(flags)}"
    if not (file.exists() and command.exists() and command.read_text() == asked):
        with contextlib.suppress(FileNotFoundError):
            command.unlink()
        print(f"$ {asked}", file=sys.stderr, flush=True)
        words = [sys.executable, *asked.split()[1:]]
        done = subprocess.run(
            words, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"}
        )
        if not file.exists() or done.returncode not in (0, 2) or "written to" not in done.stdout:
            raise ValueError(f"{asked} failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
        command.write_text(asked)
    return json.loads(file.read_text())

"""What a run will need, known before it starts: `--mode=plan` compiles the real train step and runs nothing."""

import json
import pathlib
import time
from typing import Any

import jax

from bertjax import sharding, tasks
from bertjax.config import Config, stages
from bertjax.data.corpus import Vocabulary
from bertjax.journal import scaled
from bertjax.program import build
from bertjax.train import make_train_step
from bertjax.types import Tree


def plan(config: Config, vocabulary: Vocabulary, devices: Any = None) -> dict[str, Any]:
    """Parameters, bytes a device, operations a step and the compile time of a config, as JSON data."""
    program = build(config, vocabulary, devices)
    with program.active():
        began = time.perf_counter()
        compiled = make_train_step(program).lower(program.state, program.batch).compile()
        seconds = time.perf_counter() - began
    memory = compiled.memory_analysis()
    rows, length = config.train.batch_size, config.data.length
    per_token = tasks.flops_per_token(config.tasks, config.model, attended=float(length))
    return {
        "devices": program.mesh.size,
        "platform": program.mesh.devices.flat[0].platform,
        "mesh": {axis: size for axis, size in program.mesh.shape.items() if size > 1},
        "rules": config.mesh.rules,
        "parameters": program.parameters,
        "bytes_per_device": {
            "parameters": _bytes(program.state.params),
            "optimizer": _bytes(program.state.opt_state),
            "temporary": memory.temp_size_in_bytes,
            "arguments": memory.argument_size_in_bytes,
            "total": memory.argument_size_in_bytes
            + memory.temp_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes,
        },
        "tokens_per_step": rows * length,
        "flops_per_token": per_token,
        "flops_per_step": per_token * rows * length,
        "compile_seconds": round(seconds, 1),
    }


def _bytes(tree: Tree) -> int:
    """Of one device's share."""
    return sum(
        sharding.count(jax.ShapeDtypeStruct(leaf.sharding.shard_shape(leaf.shape), leaf.dtype))
        * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def run(config: Config, vocabulary: Vocabulary, workdir: str) -> dict[str, Any]:
    """Prints a plan and writes it to plan.json in the workdir; that of the last phase, and of all of them below it."""
    phases = []
    for stage in stages(config):
        if config.train.phases:
            print(
                f"steps         {stage.first:,} to {stage.last:,}: rows of {stage.config.data.length} tokens"
            )
        phases.append(plan(stage.config, vocabulary))
        show(phases[-1])
    result = {**phases[-1], "phases": phases} if config.train.phases else phases[-1]
    path = pathlib.Path(workdir) / "plan.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to    {path}")
    return result


def show(result: dict[str, Any]) -> None:
    """Prints a plan."""
    size = result["bytes_per_device"]
    mesh = " x ".join(f"{axis}={n}" for axis, n in result["mesh"].items()) or "one device"
    print(f"devices       {result['devices']} x {result['platform']}, mesh {mesh}, rules {result['rules']}")
    print(f"parameters    {result['parameters']:,}")
    print("a device      " + ", ".join(f"{name} {scaled(n)}B" for name, n in size.items()))
    print(f"a step        {result['tokens_per_step']:,} token slots, {scaled(result['flops_per_step'])}FLOP")
    print(f"compiled in   {result['compile_seconds']} s")

"""One plan, as JSON data: built, compiled, read, estimated."""

import dataclasses
from typing import Any

from bertjax import tasks
from bertjax.adversarial import passes
from bertjax.attention import explain
from bertjax.config import Config
from bertjax.data.corpus import Vocabulary
from bertjax.plan import analytic, roofline
from bertjax.plan.advice import advise
from bertjax.plan.collectives import Collective, collectives, table
from bertjax.plan.compile import Compiled, OutOfMemoryError, bytes_of, compile_step, lower_for_cuda
from bertjax.plan.hlo import parse
from bertjax.plan.topology import Topology, devices_of
from bertjax.plan.traffic import memory_traffic
from bertjax.program import Program, build
from bertjax.sharding import assume


def plan(
    config: Config,
    vocabulary: Vocabulary,
    devices: Any = None,
    *,
    topology: Topology | None = None,
    steps: int | None = None,
) -> dict[str, Any]:
    """What a run of so many steps takes on the given devices, on a machine by name, or on this one."""
    if topology is not None and devices is None:
        devices = devices_of(topology)
    program = build(config, vocabulary, devices)
    platform = program.mesh.devices.flat[0].platform if topology is None else topology.platform
    model = analytic.describe(program)
    predicted = analytic.memory(config, vocabulary, model, dict(program.mesh.shape), platform)
    rows, length = config.train.batch_size, config.data.length
    per_token = tasks.flops_per_token(config.tasks, config.model, attended=float(length))
    per_token *= passes(config.train.adversarial)
    with program.active(), assume(platform):
        attention = explain(config.model, platform, length=length)
    result: dict[str, Any] = {
        "topology": "this machine" if topology is None else topology.name,
        "platform": platform,
        "chip": None if topology is None or topology.chip is None else topology.chip.name,
        "chips": program.mesh.size if topology is None else topology.chips,
        "devices": program.mesh.size,
        "mesh": {axis: size for axis, size in program.mesh.shape.items() if size > 1},
        "slices": 1 if topology is None else topology.slices,
        "rules": config.mesh.rules,
        "parameters": program.parameters,
        "attention": attention,
        "rows": rows,
        "length": length,
        "microbatches": config.train.microbatches,
        "remat": config.model.remat,
        "tokens_per_step": rows * length,
        "flops_per_token": per_token,
        "flops_per_step": per_token * rows * length,
        "steps": steps or config.train.steps,
        "notes": [],
    }
    if topology is not None and program.mesh.size < topology.size:
        idle = topology.size - program.mesh.size
        result["notes"].append(f"{idle} of {topology.size} devices would stand idle: set mesh.data=-1")
    if platform == "gpu" and config.model.dtype == "float32":
        result["notes"].append(
            "float32 products do not reach the peak that the estimate takes: that of bfloat16"
        )
    compiled, refused = None, None
    if topology is not None and topology.platform == "gpu":
        lower_for_cuda(program)
        result["notes"].append(
            "lowered for CUDA, not compiled: that every operation has a GPU form is known; memory, collectives and "
            "time are computed from the model and the mesh, and what XLA makes of them is not known"
        )
    else:
        try:
            compiled = compile_step(program)
        except OutOfMemoryError as error:
            refused = error
    result["compiled"] = compiled is not None
    result["compile_seconds"] = None if compiled is None else round(compiled.seconds, 1)
    size = _sizes(program, predicted, compiled, refused)
    result["bytes_per_device"] = size
    found, traffic, unknown = _exchanges(config, model, program, compiled)
    if compiled is not None and compiled.text is None:
        result["notes"].append(
            "this JAX cannot read the program that this libtpu has made: collectives and time are predicted; "
            "python -m pip install -r requirements-plan.txt installs the libtpu that goes with it"
        )
    result["read"] = compiled is not None and compiled.text is not None
    if traffic is None:
        traffic = analytic.traffic(predicted, config.train.microbatches)
    result["collectives"] = [dataclasses.asdict(row) for row in table(found)]
    if unknown:
        result["notes"].append(f"{len(unknown)} loops of unknown length counted as one trip: {unknown[0]}")
    available = refused.available if refused else topology.chip.memory if topology and topology.chip else None
    if available is not None:
        fits = refused is None and size["total"] <= available
        memory: dict[str, Any] = {"available": available, "fits": fits, "used": size["total"] / available}
        if not fits:
            memory["advice"] = advise(
                config, vocabulary, model, program.mesh, platform, size["total"], available
            )
        result["memory"] = memory
    result["fits"] = available is None or result["memory"]["fits"]
    if topology is not None and topology.chip is not None:
        tokens = rows * length / program.mesh.size
        repeated = roofline.repeated_flops(config.model, length) * tokens
        guess = roofline.estimate(per_token * tokens, repeated, traffic, found, program.mesh, topology)
        result["estimate"] = _estimate(guess, result["steps"], topology)
    return result


def _sizes(
    program: Program,
    predicted: analytic.Memory,
    compiled: Compiled | None,
    refused: OutOfMemoryError | None,
) -> dict[str, int]:
    """Bytes of one device by what they are for."""
    parameters, optimizer = bytes_of(program.state.params), bytes_of(program.state.opt_state)
    batch = bytes_of(program.batch)
    size = {"parameters": parameters, "optimizer": optimizer, "batch": batch}
    if compiled is not None:
        activations = min(predicted.activations, compiled.temporary)
        size |= {
            "activations": activations,
            "temporaries": compiled.temporary - activations + compiled.outputs,
            "program": compiled.program,
            "arguments": compiled.arguments,
            "temporary": compiled.temporary,
        }
        size["total"] = compiled.arguments + compiled.temporary + compiled.outputs + compiled.program
        return size
    rest = predicted.gradients + predicted.gathered
    if refused is not None:
        whole = refused.needed + (parameters + optimizer + batch if refused.temporaries else 0)
        rest = max(whole - parameters - optimizer - batch - predicted.activations, 0)
    size |= {"activations": predicted.activations, "temporaries": rest, "program": 0}
    size["total"] = sum(size.values())
    return size


def _exchanges(
    config: Config, model: analytic.Model, program: Program, compiled: Compiled | None
) -> tuple[list[Collective], int | None, tuple[str, ...]]:
    """Collectives, memory traffic and loops of unknown length: the compiler's, or what the rules imply."""
    if compiled is None or compiled.text is None:
        return analytic.exchanges(config, model, program.mesh), None, ()
    module = parse(compiled.text)
    return collectives(module, program.mesh), memory_traffic(module), module.unknown


def _estimate(guess: roofline.Estimate, steps: int, topology: Topology) -> dict[str, float]:
    seconds = guess.step * steps
    return {
        "compute_seconds": guess.compute,
        "memory_seconds": guess.memory,
        "network_seconds": guess.network,
        "step_seconds": guess.step,
        "best_seconds": guess.best,
        "mfu": guess.mfu,
        "run_hours": seconds / 3600,
        "chip_hours": seconds / 3600 * topology.chips,
    }

"""Finds the mesh: `--search` counts every legal combination, compiles the best few, and ranks those that fit.

    meshes         every way to divide the devices of a slice over fsdp, tensor and sequence; data takes the rest
    rules          the smallest preset that has a use for all axes of the mesh
    slices         over data, or over fsdp
    remat          none, dots, block
    microbatches   1, 2, 4, 8, 16

Memory and time of all of them are counted without compiling (`analytic`, `roofline`). The fastest that are predicted
to fit are compiled, a few at a time: where the compiler finds no room the next ones take their place.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Literal

from jax.sharding import Mesh

from bertjax import sharding, tasks
from bertjax.adversarial import passes
from bertjax.config import CHOICES, Config
from bertjax.data.corpus import Vocabulary
from bertjax.plan import analytic, roofline
from bertjax.plan.advice import SPARE
from bertjax.plan.planner import plan
from bertjax.plan.topology import Topology, devices_of
from bertjax.program import build
from bertjax.settings import describe, override
from bertjax.sharding import PRESETS, MeshConfig

REMATS: tuple[Literal["none", "dots", "block"], ...] = ("none", "dots", "block")
MICROBATCHES = (1, 2, 4, 8, 16)
COMPILED = 4  # that fit
TRIED = 8  # at most


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One combination and what is predicted of it."""

    config: Config
    bytes: int
    seconds: float
    effort: tuple[int, ...]  # of two that are as fast the simpler one comes first


def search(
    config: Config,
    vocabulary: Vocabulary,
    topology: Topology,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Ranked plans, and the settings of the best."""
    if topology.chip is None:
        raise ValueError(f"--search needs chips whose speed is known, not --topology={topology.name}")
    devices = devices_of(topology)
    found = sorted(candidates(config, vocabulary, topology, devices), key=lambda c: (c.seconds, c.effort))
    if not found:
        raise ValueError(
            f"no mesh of --topology={topology.name} divides train.batch_size={config.train.batch_size}: "
            f"set it to a multiple of {topology.size}"
        )
    roomy = [one for one in found if one.bytes <= SPARE * topology.chip.memory]
    ranked: list[dict[str, Any]] = []
    for number, one in enumerate(roomy[:TRIED]):
        if sum(entry["fits"] for entry in ranked) >= COMPILED:
            break
        settings = difference(config, one.config)
        say(f"compiling {number + 1}: {' '.join(settings) or 'as it is'}")
        ranked.append(_entry(plan(one.config, vocabulary, devices, topology=topology), settings, one))
    ranked.sort(key=lambda entry: (not entry["fits"], entry["step_seconds"]))
    best = next((entry for entry in ranked if entry["fits"]), None)
    least = min(found, key=lambda c: c.bytes)
    return {
        "topology": topology.name,
        "legal": len(found),
        "roomy": len(roomy),
        "ranked": ranked,
        "settings": best["settings"] if best else None,
        "advice": f"the least that is predicted is {least.bytes / 2**30:.2f} GiB a device: take more chips",
        "fits": best is not None,
    }


def candidates(
    config: Config, vocabulary: Vocabulary, topology: Topology, devices: list[Any]
) -> Iterator[Candidate]:
    """Every legal combination."""
    assert topology.chip is not None
    here, length = topology.size // topology.slices, config.data.length
    model: analytic.Model | None = None
    per_token = tasks.flops_per_token(config.tasks, config.model, attended=float(length))
    per_token *= passes(config.train.adversarial)
    for mesh_config in meshes(config.mesh, here, topology.slices):
        mesh: Mesh | None = None
        for remat, parts in itertools.product(REMATS, MICROBATCHES):
            encoder = dataclasses.replace(config.model, remat=remat)
            train = dataclasses.replace(config.train, microbatches=parts)
            one = dataclasses.replace(config, model=encoder, train=train, mesh=mesh_config)
            try:
                mesh = mesh or sharding.make_mesh(mesh_config, devices)
                model = model or analytic.describe(_program(config, vocabulary))
                sizes = dict(mesh.shape)
                analytic.legal(one, model, sizes)
                tasks.check(one.tasks, encoder, config.data.format, parts)
            except ValueError:
                continue
            memory = analytic.memory(one, vocabulary, model, sizes, topology.platform)
            tokens = config.train.batch_size * length / mesh.size
            guess = roofline.estimate(
                per_token * tokens,
                roofline.repeated_flops(encoder, length) * tokens,
                analytic.traffic(memory, parts),
                analytic.exchanges(one, model, mesh),
                mesh,
                topology,
            )
            effort = (len(PRESETS[mesh_config.rules]), REMATS.index(remat), parts)
            yield Candidate(one, memory.total, guess.step, effort)


def _program(config: Config, vocabulary: Vocabulary) -> Any:
    """The config on one device, for what does not depend on the mesh."""
    import jax

    return build(dataclasses.replace(config, mesh=MeshConfig(data=1)), vocabulary, jax.devices("cpu")[:1])


def meshes(base: MeshConfig, devices: int, slices: int) -> Iterator[MeshConfig]:
    """Every division of the devices of a slice, with the smallest preset that uses it."""
    divisors = [n for n in range(1, devices + 1) if devices % n == 0]
    for fsdp, tensor, sequence in itertools.product(divisors, repeat=3):
        if devices % (fsdp * tensor * sequence):
            continue
        rules: Any = "fsdp_tensor_sequence" if sequence > 1 else "fsdp_tensor" if tensor > 1 else "fsdp"
        outer = [(slices, 1), (1, slices)] if slices > 1 and fsdp > 1 else [(slices, 1)]
        for dcn_data, dcn_fsdp in outer:
            simple = fsdp == tensor == sequence == dcn_fsdp == 1
            yield dataclasses.replace(
                base,
                data=-1,
                fsdp=fsdp,
                tensor=tensor,
                sequence=sequence,
                rules="data" if simple else rules,
                dcn_tensor=1,
                dcn_sequence=1,
                dcn_data=dcn_data,
                dcn_fsdp=dcn_fsdp,
            )


def difference(config: Config, other: Config) -> list[str]:
    """The settings that lead from one config to another."""
    values = [{path: value for path, value, _ in describe(c, CHOICES)} for c in (config, other)]
    settings = [f"{path}={value}" for path, value in values[1].items() if values[0].get(path) != value]
    assert override(config, settings, CHOICES) == other, settings
    return settings


def _entry(made: dict[str, Any], settings: list[str], one: Candidate) -> dict[str, Any]:
    guess = made["estimate"]
    return {
        "settings": settings,
        "mesh": made["mesh"],
        "rules": made["rules"],
        "remat": made["remat"],
        "microbatches": made["microbatches"],
        "fits": made["fits"],
        "bytes": made["bytes_per_device"]["total"],
        "predicted_bytes": one.bytes,
        "step_seconds": guess["step_seconds"],
        "predicted_seconds": one.seconds,
        "mfu": guess["mfu"],
        "run_hours": guess["run_hours"],
        "wire": sum(row["wire"] for row in made["collectives"]),
        "compile_seconds": made["compile_seconds"],
    }

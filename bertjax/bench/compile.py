"""How long a step takes to compile, over depth and over machines: `python -m bertjax bench compile`.

    scanned     48 layers over 12, where a scan compiles one of them
    unrolled    a further layer of a deep stack over one of a shallow one: each is compiled, and costs the same
    machines    the larger of two topologies over the smaller, and 48 layers over 12 on that, by the TPU's compiler
                (--topologies, needs libtpu)

Processor seconds, the least of some rounds: compilers use several threads, and other work on the machine would add.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

from bertjax.bench.law import CODE, Laws, Seen, measure
from bertjax.config import Config, DataConfig, TrainConfig
from bertjax.data.packing import BestFit
from bertjax.data.synthetic import SyntheticCorpus
from bertjax.plan.compile import compile_step
from bertjax.plan.growth import compile_time
from bertjax.plan.topology import devices_of, find
from bertjax.program import build
from bertjax.sharding import MeshConfig
from bertjax.tasks import Mlm

USAGE = """usage: python -m bertjax bench compile [--option=value ...]

Measures how long a training step takes to compile, over the number of layers, scanned and one by one, and over machines
that need not be here. Each is a law with a bound.

    python -m bertjax bench compile
    python -m bertjax bench compile --only=scanned --model=large
    python -m bertjax bench compile --only=machines --model=large --model.dtype=bfloat16 \\
        --model.attention_dropout=0 --topologies=v5e:4x4,v5e:16x16"""

OPTIONS = Laws()

SCANNED = (12, 48)
UNROLLED = (4, 8, 16)


def config_of(options: Laws) -> Config:
    """A run whose step is compiled."""
    data = DataConfig(format=BestFit(), length=128)
    return Config(model=options.model, data=data, tasks=(Mlm(),), train=TrainConfig(batch_size=16))


def depths(options: Laws, layers: Sequence[int], *, scan: bool, rounds: int) -> dict[int, float]:
    """Seconds for every number of layers, in turns."""
    config = config_of(options)
    vocabulary = SyntheticCorpus(1, config.model.vocab, seed=0).vocabulary
    compile_time(config, vocabulary, 1, seed=1000, scan=scan)  # what is done once a process
    found = [
        {n: compile_time(config, vocabulary, n, seed=turn, scan=scan) for n in layers}
        for turn in range(rounds)
    ]
    return {n: min(turn[n] for turn in found) for n in layers}


def scanned(options: Laws) -> list[Seen]:
    """A scan's body is compiled once."""
    times = depths(options, SCANNED, scan=True, rounds=min(options.rounds, 3))
    points = {f"{n} layers": seconds for n, seconds in times.items()}
    law = "scanned, 48 layers compile as fast as 12"
    return [Seen(law, points, "s", "ratio", times[48] / times[12], (0, 1.3))]


def unrolled(options: Laws) -> list[Seen]:
    """Every layer is compiled, and none costs more for those before it."""
    times = depths(options, UNROLLED, scan=False, rounds=min(options.rounds, 2))
    first, second, third = UNROLLED
    early = (times[second] - times[first]) / (second - first)
    late = (times[third] - times[second]) / (third - second)
    points = {f"{n} layers": seconds for n, seconds in times.items()}
    law = "unrolled, a layer more compiles as fast in a deep stack as in a shallow one"
    fit = f"{late:.3f} s over {early:.3f} s a layer"
    return [Seen(law, points, "s", fit, late / early, (0, 1.3))]


def machines(options: Laws) -> list[Seen]:
    """More chips are no more programs, and more scanned layers none for a chip."""
    if not options.topologies:
        return []
    first, last = options.topologies[0], options.topologies[-1]
    few, many = SCANNED
    chips = {name: elsewhere(options, name, few) for name in options.topologies}
    layers = {f"{few} layers": chips[first], f"{many} layers": elsewhere(options, first, many)}
    law = f"compiled for {last} as fast as for {first}"
    return [
        Seen(law, chips, "s", "ratio", chips[last] / chips[first], (0, 1.2)),
        Seen(
            f"for {first}, {many} scanned layers compile as fast as {few}",
            layers,
            "s",
            "ratio",
            layers[f"{many} layers"] / layers[f"{few} layers"],
            (0, 1.2),
        ),
    ]


def elsewhere(options: Laws, name: str, layers: int) -> float:
    """Processor seconds to compile for a machine that is not here; parameters split over 16 chips where it has them."""
    config, devices = config_of(options), devices_of(find(name))
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, scan=True, layers=layers),
        data=dataclasses.replace(config.data, length=512),
        mesh=MeshConfig(fsdp=16, rules="fsdp") if len(devices) % 16 == 0 else MeshConfig(),
        train=dataclasses.replace(config.train, batch_size=8 * len(devices)),
    )
    program = build(config, SyntheticCorpus(1, config.model.vocab, seed=0).vocabulary, devices)
    began = time.process_time()
    compile_step(program)
    return time.process_time() - began


LAWS: dict[str, Callable[[Laws], Sequence[Seen]]] = {
    "scanned": scanned,
    "unrolled": unrolled,
    "machines": machines,
}


def run(options: Laws) -> Any:
    """Measures the laws of compilation."""
    measure(LAWS, options, "compile", code=CODE)

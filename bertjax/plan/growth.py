"""How a compiled step grows: its communication with the number of data shards, its compile time with depth.

Communication (weak scaling): with as many rows a device, a device may send at most what an all-reduce of the gradients
takes at best, 2 (n - 1) / n times their bytes, which never exceeds twice them. Depth: a scan over layers compiles one
layer, so 48 layers take as long as 12 (`bench compile` measures it).
"""

import dataclasses
import time
from typing import Any

import jax

from bertjax.config import Config
from bertjax.data.corpus import Vocabulary
from bertjax.plan.collectives import collectives
from bertjax.plan.compile import compile_step
from bertjax.plan.hlo import parse
from bertjax.program import build
from bertjax.sharding import MeshConfig
from bertjax.step import make_train_step


@dataclasses.dataclass(frozen=True)
class Sent:
    """What a device sends in a step on so many data shards."""

    shards: int
    wire: float
    gradients: int  # bytes

    @property
    def share(self) -> float:
        """Of the bytes of the gradients."""
        return self.wire / self.gradients

    @property
    def bound(self) -> float:
        """The best that an all-reduce can do, as a share too."""
        return 2 * (self.shards - 1) / self.shards


def communication(config: Config, vocabulary: Vocabulary, shards: int, devices: list[Any]) -> Sent:
    """Of the config's step with its batch size a device, under the rules `data`."""
    train = dataclasses.replace(config.train, batch_size=config.train.batch_size * shards)
    config = dataclasses.replace(config, train=train, mesh=MeshConfig(data=shards))
    program = build(config, vocabulary, devices[:shards])
    text = compile_step(program).text
    assert text is not None, "the CPU's compiler and JAX are one"
    found = collectives(parse(text), program.mesh)
    return Sent(shards, sum(one.times * one.wire for one in found), 4 * program.parameters)


def compile_time(
    config: Config, vocabulary: Vocabulary, layers: int, *, seed: int = 0, scan: bool = True
) -> float:
    """Processor seconds from a config of so many layers to the compiled step on one device of this machine.

    The seed is a constant of the program: with another one no cache has it.
    """
    model = dataclasses.replace(config.model, layers=layers, scan=scan)
    train = dataclasses.replace(config.train, seed=seed)
    config = dataclasses.replace(config, model=model, train=train, mesh=MeshConfig(data=1))
    program = build(config, vocabulary, jax.devices()[:1])
    began = time.process_time()
    with program.active():
        make_train_step(program).lower(program.state, program.batch).compile()
    return time.process_time() - began

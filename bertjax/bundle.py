"""A trained model as one thing: config, network, parameters, tokenizer."""

import dataclasses
import pathlib
from typing import Any

import jax

from bertjax.checkpoint import Checkpoints
from bertjax.config import Config, read_workdir
from bertjax.models.network import Network
from bertjax.program import Program, build
from bertjax.types import Tree


@dataclasses.dataclass(frozen=True)
class Bundle:
    """What a workdir holds."""

    config: Config
    program: Program
    params: Tree
    tokenizer: Any
    step: int

    @property
    def network(self) -> Network:
        """The encoder with the heads it was trained with."""
        return self.program.network


def load(workdir: str, *, devices: Any = None) -> Bundle:
    """The newest whole checkpoint of a run, replicated over the devices of this machine (or over those given)."""
    from bertjax.data.tokenizer import load as load_tokenizer
    from bertjax.sharding import MeshConfig

    config = dataclasses.replace(read_workdir(workdir)[0], mesh=MeshConfig())
    step = Checkpoints(workdir).latest()
    if step is None:
        raise ValueError(f"{workdir} holds no whole checkpoint: train there first, or let the run go on")
    tokenizer = load_tokenizer(str(pathlib.Path(workdir) / "tokenizer"))
    many = len(jax.devices() if devices is None else devices)
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, batch_size=many, microbatches=1)
    )
    program = build(config, tokenizer.vocabulary, devices)
    params = Checkpoints(workdir).restore_params(step, program.state.params)
    return Bundle(config, program, params, tokenizer, step)

"""`--mode=evaluate`: the held-out metrics of the newest whole checkpoint of a workdir."""

import dataclasses
import json

from bertjax import train
from bertjax.checkpoint import Checkpoints
from bertjax.config import open_rows, read_workdir
from bertjax.data.loader import Loader
from bertjax.sharding import MeshConfig


def run(workdir: str, mesh: MeshConfig) -> dict[str, float]:
    """Evaluates with the run's own config on any mesh, and prints one line of JSON."""
    config = dataclasses.replace(read_workdir(workdir)[0], mesh=mesh)
    checkpoints = Checkpoints(workdir)
    step = checkpoints.latest()
    if step is None:
        raise ValueError(f"{workdir} holds no whole checkpoint to evaluate: train there first")
    heldout = open_rows(config, "heldout")
    program = train.build(config, heldout.vocabulary)
    loader = Loader(heldout, config.train.batch_size, seed=0, shuffle=False)
    with program.active():
        params = checkpoints.restore_params(step, program.state.params)
        values = train.evaluate(program, train.make_eval_step(program), params, loader)
    print(json.dumps({"step": step, **{f"heldout_{name}": value for name, value in values.items()}}))
    return values

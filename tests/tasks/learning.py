"""A short training run of tasks, for tests that a loss falls."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from bertjax import metrics as metrics_lib
from bertjax import tasks
from bertjax.config import Config, DataConfig, TrainConfig, open_rows
from bertjax.data.examples import Format
from bertjax.data.loader import Loader
from bertjax.layers.config import EncoderConfig
from bertjax.optim import OptimConfig
from bertjax.program import build, create_state
from bertjax.sharding import MeshConfig
from bertjax.tasks import Task
from bertjax.train import make_train_step

MODEL = EncoderConfig(
    layers=1, width=48, heads=3, vocab=256, max_length=32, dropout=0.0, attention_dropout=0.0
)
ONE_DEVICE = MeshConfig(data=1)


def run_config(
    chosen: Sequence[Task],
    format: Format,
    *,
    steps: int,
    rows: int = 32,
    microbatches: int = 1,
    mesh: MeshConfig = ONE_DEVICE,
    corpus: str = "synthetic",
    **model: Any,
) -> Config:
    """A small run on made-up or other text, on one device unless another mesh is asked for."""
    return Config(
        model=dataclasses.replace(MODEL, **model),
        data=DataConfig(corpus=corpus, format=format, length=32, threads=0),
        tasks=tuple(chosen),
        optim=OptimConfig(learning_rate=3e-3, warmup_steps=5),
        mesh=mesh,
        train=TrainConfig(steps=steps, batch_size=rows, microbatches=microbatches, eval_every=None),
    )


def learn(
    chosen: Sequence[Task], format: Format, *, steps: int, batches: int | None = None, **settings: Any
) -> dict[str, np.ndarray]:
    """The values of every metric over the steps of a run, which may see the same few batches again and again."""
    config = run_config(chosen, format, steps=steps, **settings)
    examples = open_rows(config, "train")
    program = build(config, examples.vocabulary)
    loader = Loader(examples, config.train.batch_size, config.train.seed)
    history = []
    with program.active():
        state, step = create_state(program), make_train_step(program)
        for index in range(steps):
            state, metrics = step(
                state, loader.place(index % (batches or steps), program.mesh, config.mesh.rules)
            )
            history.append(tasks.summarise(config.tasks, metrics_lib.means(jax.device_get(metrics))))
    names = {name for values in history for name in values}  # one without weight in a step is left out there
    return {name: np.array([values.get(name, np.nan) for values in history]) for name in names}

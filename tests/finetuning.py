"""What tests of fine-tuning share: a run over made-up records, small enough to compile in a second or two."""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from bertjax.checkpoint import Checkpoints
from bertjax.config import CHOICES, Config, DataConfig, TrainConfig, claim
from bertjax.data.labelled import made_up
from bertjax.finetune import Exam, open_sets
from bertjax.layers.config import EncoderConfig
from bertjax.optim import OptimConfig
from bertjax.program import build
from bertjax.settings import override
from bertjax.sharding import MeshConfig
from bertjax.tasks import TASKS, LabelledTask, Task
from bertjax.types import TrainState

MODEL = EncoderConfig(
    layers=1,
    width=32,
    heads=4,
    vocab=made_up.tokenizer().vocabulary.size,
    vocab_multiple=8,
    max_length=40,
    dropout=0.0,
    attention_dropout=0.0,
    init_std=0.1,
)

# What tests of predictions read with: untrained, so more of it than of what is trained.
READER = dataclasses.replace(MODEL, layers=2, width=24, feedforward=40, init_std=0.02)


def tiny(*settings: str, tasks: tuple[str, ...] = ("classify",), **train_settings: Any) -> Config:
    """A run over made-up records, on one device, with some settings changed."""
    chosen = []
    for name in tasks:
        task = TASKS[name]
        assert isinstance(task, LabelledTask)
        chosen.append(task.on_made_up_records())
    options = {"epochs": 1.0, "batch_size": 16, "log_every": 5, "eval_every": 10, "checkpoint_every": 10}
    config = Config(
        model=MODEL,
        data=DataConfig(length=40, shapes=2, threads=0, ahead=1),
        tasks=tuple(chosen),
        optim=OptimConfig(learning_rate=5e-3, warmup_steps=10),
        mesh=MeshConfig(data=1),
        train=TrainConfig(**{**options, **train_settings}),
    )
    return override(config, settings, CHOICES)


def as_left_by_a_run(
    folder: pathlib.Path,
    tasks: tuple[Task, ...],
    *settings: str,
    model: EncoderConfig = READER,
    heads: tuple[Task, ...] = (),
    spread: float = 1.0,
    norms: float = 1.0,
) -> None:
    """A workdir with predictions of held-out records, by parameters that are drawn around zero, scales around `norms`.

    With `heads` the model has those of other tasks than those whose records there are, and predicts nothing.
    """
    config = Config(
        model=model,
        data=DataConfig(length=24, shapes=1, threads=0, ahead=1),
        tasks=tasks,
        mesh=MeshConfig(data=1),
        train=TrainConfig(steps=1, batch_size=20, eval_every=None),
    )
    sets = open_sets(override(config, settings, CHOICES))
    config = dataclasses.replace(sets.config, tasks=heads or sets.config.tasks)
    program = build(config, sets.tokenizer.vocabulary, lengths=sets.lengths)
    random = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        middle = norms if path[-1].key == "scale" else 0.0
        return (spread * random.normal(size=leaf.shape) + middle).astype(np.float32)

    params = jax.tree_util.tree_map_with_path(draw, program.state.params)
    claim(str(folder), config, sets.digest)
    sets.keep_tokenizer(str(folder))
    checkpoints = Checkpoints(folder)
    checkpoints.save(TrainState(step=np.int32(1), params=params, opt_state={}))
    checkpoints.close()
    if not heads:
        with program.active():
            Exam(program, sets).conclude(jax.device_put(params), str(folder))

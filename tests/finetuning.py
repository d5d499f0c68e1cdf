"""What tests of fine-tuning share: a run over made-up records, small enough to compile in a second or two."""

from typing import Any

from bertjax.config import CHOICES, Config, DataConfig, TrainConfig
from bertjax.data.labelled import made_up
from bertjax.layers.config import EncoderConfig
from bertjax.optim import OptimConfig
from bertjax.settings import override
from bertjax.sharding import MeshConfig
from bertjax.tasks import TASKS, LabelledTask

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

"""What the runs of this folder have in common: BERT's recipe, evaluated once an epoch, the best checkpoint kept."""

from bertjax.config import Config, DataConfig, TrainConfig
from bertjax.models.presets import PRESETS
from bertjax.optim import OptimConfig
from bertjax.tasks import LabelledTask


def recipe(
    *tasks: LabelledTask,
    length: int = 128,
    epochs: float = 3.0,
    batch_size: int = 32,
    rate: float = 3e-5,
    best: str = "heldout_score",
) -> Config:
    """Adam with a tenth of warm-up and a linear decay (1810.04805, Appendix A.3; 2006.05987).

    The encoder is that of `--set model.init=DIR`; without it one of BERT-base's size starts from random numbers.
    """
    return Config(
        model=PRESETS["base"],
        data=DataConfig(length=length),
        tasks=tasks,
        optim=OptimConfig(learning_rate=rate, warmup_share=0.1, weight_decay=0.01),
        train=TrainConfig(
            epochs=epochs,
            evals_per_epoch=1,
            batch_size=batch_size,
            log_every=50,
            checkpoint_every=100_000,
            keep=1,
            best=best,
        ),
    )

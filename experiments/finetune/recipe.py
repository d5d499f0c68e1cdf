"""What the runs of this folder have in common.

recipe   BERT's, evaluated once an epoch, the best checkpoint kept
judged   a score beside that of a baseline, and whether it is above it by the margin that was set before the run
"""

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
    shapes: int = DataConfig().shapes,
) -> Config:
    """Adam with a tenth of warm-up and a linear decay (1810.04805, Appendix A.3; 2006.05987).

    The encoder is that of `--set model.init=DIR`; without it one of BERT-base's size starts from random numbers.
    Each of the `shapes` is compiled twice, to learn and to evaluate: more than one is for records of unlike lengths.
    """
    return Config(
        model=PRESETS["base"],
        data=DataConfig(length=length, shapes=shapes),
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


def judged(name: str, found: float, baseline: float, margin: float) -> dict[str, float]:
    """Says by how much a score is above that of a baseline, and by how much it has to be; for the run's result."""
    above = found - baseline
    verdict = "reached" if above >= margin else "NOT reached"
    print(
        f"{name} {found:.1%}, of the baseline {baseline:.1%}: {100 * above:+.1f} points, "
        f"and {100 * margin:+.1f} are wanted: {verdict}"
    )
    return {f"baseline_{name}": baseline, "above_baseline": above, "margin": margin}

"""A small BERT, pretrained in minutes on text that every machine already has.

Trains a WordPiece vocabulary on the interpreter's documentation, prepares a corpus from that and from the docstrings
of the libraries that this project runs on, pretrains on masked words and next sentences (BERT, 1810.04805), compares
held-out accuracy with printed baselines, draws the loss, and fills the gaps of five sentences. No download, no
accelerator.

Command: python -m experiments.quickstart --workdir=runs/quickstart
Cost: at most five minutes on two CPU cores.
Expected: masked-LM accuracy over twice that of the most frequent token, next sentence far better than a coin.
"""

import dataclasses
import pathlib

from bertjax import experiment
from bertjax.config import Config, DataConfig, TrainConfig
from bertjax.layers.config import EncoderConfig
from bertjax.layers.position.rope import Rope
from bertjax.optim import OptimConfig
from bertjax.tasks.mlm import Mlm
from bertjax.tasks.nsp import Nsp

SENTENCES = (
    "Return [MASK] if the object is a string.",
    "This method [MASK] called when the file is closed.",
    "The [MASK] of rows in the table.",
    "Returns a list [MASK] strings.",
    "This function can [MASK] used to read the file.",
)

# What every machine with this project has. All that is installed (`python-docs`) may be many times as much, and is read
# file by file before the first step.
VOCABULARY = ("python-docs:python",)
LIBRARIES = ("numpy", "scipy", "jax", "flax", "optax", "orbax", "datasets")
TEXT = (*VOCABULARY, *(f"python-docs:{name}" for name in LIBRARIES))


def config() -> Config:
    """Small, with rotary positions, at a rate low enough for the pairs to be learned, too."""
    model = EncoderConfig(
        layers=2,
        width=64,
        heads=2,
        block="pre",
        position=Rope(),
        vocab=8192,
        max_length=64,
        init_std=0.1,
        dropout=0.0,
        attention_dropout=0.0,
    )
    return Config(
        model=model,
        data=DataConfig(length=64),
        tasks=(Mlm(), Nsp(weight=3.0)),
        optim=OptimConfig(learning_rate=1.5e-3, warmup_steps=100),
        train=TrainConfig(
            steps=3000, batch_size=32, log_every=100, eval_every=1000, eval_batches=60, checkpoint_every=500
        ),
    )


def prepare(
    config: Config, workdir: str, vocabulary: tuple[str, ...] = VOCABULARY, text: tuple[str, ...] = TEXT
) -> Config:
    """A tokenizer and a corpus in the workdir, made once."""
    from bertjax.data.prepare import PrepareOptions, prepare
    from bertjax.data.tokenizer import TokenizerOptions, train_tokenizer

    tokenizer, corpus = (str(pathlib.Path(workdir) / name) for name in ("tokenizer", "corpus"))
    train_tokenizer(TokenizerOptions(input=vocabulary, out=tokenizer, vocab=config.model.vocab))
    prepare(PrepareOptions(input=text, tokenizer=tokenizer, out=corpus, heldout=0.05))
    return dataclasses.replace(config, data=dataclasses.replace(config.data, corpus=corpus))


def finish(config: Config, workdir: str, metrics: dict[str, float]) -> dict[str, float]:
    """Compares with baselines, draws the losses, fills gaps."""
    from bertjax.bundle import load
    from bertjax.evaluate import baselines, better_than_coin
    from bertjax.predict import fill_mask
    from bertjax.report import plot_losses
    from bertjax.tools.predict import print_filled

    bundle, base = load(workdir), baselines(config)
    words, pairs = metrics["heldout_mlm_accuracy"], metrics["heldout_nsp_accuracy"]
    chance = better_than_coin(pairs, base.pairs)
    frequent = bundle.tokenizer.tokens([base.token])[0]
    print("\nOn held-out text                this model   baseline")
    print(f"masked words right               {words:9.1%}  {base.token_share:9.1%}   always {frequent!r}")
    print(f"next sentence right              {pairs:9.1%}  {0.5:9.1%}   a coin")
    verdict = "better" if chance < 0.01 else "NOT SIGNIFICANTLY better"
    print(f"masked words: {words / base.token_share:.1f} times the baseline")
    print(f"next sentence: {verdict} than a coin, p = {chance:.1g} over {base.pairs:,} pairs\n")
    for text, answer in zip(SENTENCES, fill_mask(bundle, SENTENCES), strict=True):
        print_filled(text, answer)
    print(f"\nlosses drawn in {plot_losses(workdir, 'quickstart')}")
    print(f'more gaps: python -m bertjax predict fill-mask --model={workdir} --text="The [MASK] is empty."\n')
    return {
        **metrics,
        "baseline_mlm_accuracy": base.token_share,
        "baseline_nsp_accuracy": 0.5,
        "nsp_p_value": chance,
    }


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare, finish=finish)

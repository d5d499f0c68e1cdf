"""Translation of real text: the Debian Reference from simplified into traditional Chinese.

Other characters for most of the text and other words for some of it (软件包, 軟體包); commands and names stay. The book
has the same blocks in either language; those count that are translated, differ from each other and have at most 40
characters. A tenth is held out; none of it is learned from, in neither language. Words are characters, for BLEU too.

Paper: Vaswani et al., 1706.03762; Rothe et al., 1907.12461.
Command: python -m experiments.finetune.translation --workdir=runs/translation
Cost: needs Debian's packages debian-reference-en, debian-reference-zh-cn and debian-reference-zh-tw (apt-get install).
Expected: BLEU at least five above that of the text as it is, which the run prints beside its own. Not run here.
"""

import json
import pathlib
import random

from bertjax import experiment
from bertjax.config import Config, DataConfig, TrainConfig
from bertjax.layers.config import EncoderConfig
from bertjax.optim import OptimConfig
from bertjax.scores import translation
from bertjax.tasks.translate import Translate
from experiments.finetune import packages

LANGUAGES, TOKENS, LONGEST, SHARE = ("zh-cn", "zh-tw"), 4000, 40, 0.1
MARGIN = 0.05  # by which BLEU is to be above that of the text as it is


def pairs() -> list[dict[str, str]]:
    """The blocks of both languages, each text once, in an order of their own."""
    original, *both = (packages.reference(language) for language in ("en", *LANGUAGES))
    found: dict[str, str] = {}
    targets = set()
    for (kind, english), (first, text), (second, target) in zip(original, *both, strict=True):
        assert kind == first == second, "the same blocks in every language"
        translated = english not in (text, target) and text != target
        if translated and 4 <= len(text) <= LONGEST and len(target) <= LONGEST and target not in targets:
            found.setdefault(text, target)
            targets.add(target)
    chosen = [{"text": text, "target": target} for text, target in found.items()]
    random.Random(0).shuffle(chosen)
    return chosen


def config() -> Config:
    """Two layers on either side."""
    model = EncoderConfig(
        layers=2,
        width=192,
        heads=4,
        block="pre",
        vocab=TOKENS,
        max_length=48,
        dropout=0.1,
        attention_dropout=0.0,
        init_scheme="xavier",
    )
    return Config(
        model=model,
        data=DataConfig(length=48, shapes=3),
        tasks=(Translate(target_tokens=48, tokenize="zh", metric="bleu"),),
        optim=OptimConfig(learning_rate=1.5e-3, warmup_share=0.1, weight_decay=0.01),
        train=TrainConfig(
            epochs=25, batch_size=32, log_every=100, eval_every=None, checkpoint_every=100_000, keep=1
        ),
    )


def prepare(config: Config, workdir: str) -> Config:
    """The pairs and a tokenizer for both languages, below the workdir."""
    folder = pathlib.Path(workdir) / "data"
    if not (folder / "train.jsonl").exists():
        chosen = pairs()
        held = round(SHARE * len(chosen))
        packages.write_records(folder / "validation.jsonl", chosen[:held])
        packages.write_records(folder / "train.jsonl", chosen[held:])
    return packages.with_pairs(config, folder, TOKENS, "wordpiece")


def finish(config: Config, workdir: str, metrics: dict[str, float]) -> dict[str, float]:
    """Beside what the model reaches, what the text as it is does."""
    (task,) = config.tasks
    assert isinstance(task, Translate)
    lines = (pathlib.Path(workdir) / "data" / "validation.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    texts, targets = ([record[side] for record in records] for side in ("text", "target"))
    copied = translation.bleu(texts, targets, tokenize=task.tokenize).score
    found = metrics["heldout_bleu"]
    print(
        f"BLEU {100 * found:.1f}; of the text as it is {100 * copied:.1f}: {100 * (found - copied):+.1f}, "
        f"and {100 * MARGIN:+.1f} are wanted"
    )
    return {**metrics, "copied_bleu": copied}


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare, finish=finish)

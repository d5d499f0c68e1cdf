"""Every objective learns real text: Python's own documentation, as in the quickstart.

A small model sees the same 48 rows again and again, so that in seconds its loss must go far below what is possible
without reading them: for tokens the entropy of their frequencies, for pairs and replaced tokens that of the labels, for
contrast the logarithm of the number of rows. On text that is always new the tests of each task say the same of made-up
text, and the quickstart of this one.
"""

import functools
from typing import Any

import jax
import numpy as np
import pytest

from bertjax import tasks
from bertjax.config import open_rows
from bertjax.data.examples import Format
from bertjax.data.loader import Loader
from bertjax.data.packing import BestFit
from bertjax.data.pairs import SegmentPair, SentencePair
from bertjax.data.prepare import PrepareOptions, prepare
from bertjax.data.singles import FullSentences, Padded
from bertjax.data.tokenizer import TokenizerOptions, train_tokenizer
from bertjax.layers.position.rope import Rope
from bertjax.sharding import make_mesh
from bertjax.tasks import TASKS, LabelledTask, Task
from bertjax.tasks.clm import Clm
from bertjax.tasks.contrastive import Contrastive
from bertjax.tasks.generator import Generator
from bertjax.tasks.masking import MASKINGS, Ngram, Span, WholeWord
from bertjax.tasks.mlm import Mlm
from bertjax.tasks.nsp import Nsp
from bertjax.tasks.restore import Restore
from bertjax.tasks.rtd import Rtd
from bertjax.tasks.sbo import Sbo
from bertjax.tasks.sop import Sop
from tests.cases import slow_but
from tests.tasks.learning import ONE_DEVICE, learn, run_config

pytestmark = pytest.mark.usefixtures("quick_compiles")

VOCAB, ROWS, STEPS = 1000, 24, 100
NO_PAIRS = SegmentPair(negatives="none")
ORDER = SegmentPair(negatives="swapped")

OBJECTIVES: dict[str, tuple[tuple[Task, ...], Format, dict[str, Any]]] = {
    "mlm": ((Mlm(),), FullSentences(), {}),
    "mlm packed": ((Mlm(),), BestFit(), {}),
    "mlm whole words": ((Mlm(masking=WholeWord()),), FullSentences(), {}),
    "mlm n-grams": ((Mlm(masking=Ngram()),), FullSentences(), {}),
    "sbo": ((Mlm(masking=Span()), Sbo()), FullSentences(), {}),
    "nsp": ((Mlm(), Nsp()), SegmentPair(), {}),
    "sop": ((Mlm(), Sop()), ORDER, {}),
    "clm left to right": ((Clm(),), BestFit(), {"direction": "left_to_right"}),
    "clm right to left": ((Clm(),), BestFit(), {"direction": "right_to_left"}),
    "rtd": ((Generator(), Rtd()), NO_PAIRS, {}),
    "rtd over hidden": ((Generator(), Rtd(over="hidden")), NO_PAIRS, {}),
    "replace mlm": ((Generator(), Restore(over="hidden")), NO_PAIRS, {}),
    "all-tokens mlm": ((Generator(), Restore(over="all")), NO_PAIRS, {}),
    "contrast by dropout": ((Contrastive(),), Padded(), {"dropout": 0.1}),
    "contrast of pairs": ((Contrastive(views="pair"),), SentencePair(negatives="none"), {}),
}


def test_every_objective_is_here() -> None:
    used = [task for chosen, _, _ in OBJECTIVES.values() for task in chosen]
    own = {
        name for name, task in TASKS.items() if not isinstance(task, LabelledTask)
    }  # the rest has no corpus
    assert {task.name for task in used} == own
    assert {type(task.masking) for task in used if isinstance(task, Mlm)} == set(map(type, MASKINGS.values()))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("docs")
    text = ("python-docs:pydoc_data", "python-docs:email", "python-docs:asyncio", "python-docs:unittest")
    train_tokenizer(TokenizerOptions(input=text, out=str(folder / "tokenizer"), vocab=VOCAB, workers=1))
    options = PrepareOptions(
        input=text, tokenizer=str(folder / "tokenizer"), out=str(folder / "corpus"), heldout=0.1, workers=1
    )
    assert prepare(options).tokens > 50_000
    return str(folder / "corpus")


def without_reading(
    chosen: tuple[Task, ...], format: Format, corpus: str, model: dict[str, Any]
) -> dict[str, float]:
    """The least loss of each task that does not look at the rows, in nats."""
    config = run_config(chosen, format, steps=1, rows=ROWS, corpus=corpus, vocab=VOCAB, **model)
    rows = open_rows(config, "train")
    loader, mesh = Loader(rows, ROWS, config.train.seed), make_mesh(ONE_DEVICE)
    hide = jax.jit(functools.partial(tasks.corrupt, config.tasks, vocabulary=rows.vocabulary, seed=0, step=0))
    batches = [jax.device_get(hide(loader.place(index, mesh, "data"))) for index in range(2)]
    found = {}
    for task in chosen:
        if task.name in ("mlm", "generator"):
            target = [batch.targets[task.name] for batch in batches]
            labels = np.concatenate([one["labels"][one["weights"] > 0] for one in target])
            found[task.name] = entropy(labels)
        elif task.name == "clm":
            found["clm"] = entropy(np.concatenate([batch.tokens[batch.mask] for batch in batches]))
        elif task.name in ("nsp", "sop"):
            found[task.name] = entropy(np.concatenate([batch.targets["pair"]["label"] for batch in batches]))
        elif task.name == "contrastive":
            found["contrastive"] = float(np.log(ROWS))
    found |= {
        name: found[other] for name, other in (("sbo", "mlm"), ("restore", "generator")) if other in found
    }
    return found


def entropy_of(share: float) -> float:
    """Of a coin."""
    return float(-(share * np.log(share) + (1 - share) * np.log(1 - share)))


def entropy(labels: np.ndarray) -> float:
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    return float(-(shares * np.log(shares)).sum())


@pytest.mark.parametrize("name", slow_but(OBJECTIVES, ("mlm packed", "nsp", "clm left to right")))
def test_its_loss_falls_far_below_what_can_be_had_without_reading(name: str, corpus: str) -> None:
    chosen, format, model = OBJECTIVES[name]
    model = {"position": Rope(), "init_std": 0.1, "block": "pre", **model}
    history = learn(chosen, format, steps=STEPS, batches=2, rows=ROWS, corpus=corpus, vocab=VOCAB, **model)
    blind = without_reading(chosen, format, corpus, model)
    for task in chosen:
        loss = history[f"{task.name}_loss"]
        least = blind.get(task.name, np.nan)
        if getattr(task, "over", None) == "all" or task.name == "rtd":
            # The generator's samples: how many there are, and for `restore` which tokens they hide, besides copying.
            share = history["generator_replaced"][-10:].mean() * (0.15 if task.over == "all" else 1.0)
            least = entropy_of(share) + (share * blind["restore"] if task.name == "restore" else 0.0)
        bound = (
            0.95 if task.name == "generator" else 0.6
        )  # a quarter of the width, and a fiftieth of the loss
        assert loss[-10:].mean() < bound * least, (task.name, loss[0], loss[-10:].mean(), least)

"""How the price of a step grows with what is asked of it: `python -m bertjax bench scale`.

    padding     time per real token, of text that padded rows would hold 0 to 60 % padding of, packed best-fit
    documents   a row of 2048 that holds four documents of 512, over four rows of 512, as many tokens a batch
    window      time per token of sliding windows, from rows of 1024 to rows of 8192
    head        what further predictions add to a step, over their number
    memory      what a process takes for a step, over what `--mode=plan` says

Whole training steps, but for memory all on as many tokens. Where no kernel skips blocks (the reference on a CPU), full
attention prices a row of 2048 by its square, whatever it holds: that is told, and held to nothing; windows keep the law
there, since they never look at what lies further apart.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from bertjax.attention.window import Window
from bertjax.bench.growth import exponent
from bertjax.bench.law import CODE, NOTHING, Laws, Seen, fastest, measure, spread
from bertjax.bench.memory import taken
from bertjax.bench.row import packed_rows
from bertjax.config import Config, DataConfig, TrainConfig
from bertjax.data.packing import BestFit, best_fit_decreasing
from bertjax.data.synthetic import SyntheticCorpus
from bertjax.layers.config import AttentionOptions, EncoderConfig, Full
from bertjax.program import build, create_state
from bertjax.step import make_train_step
from bertjax.tasks import Mlm
from bertjax.types import Batch

USAGE = """usage: python -m bertjax bench scale [--option=value ...]

Measures how the price of a training step grows: with padding that is packed away, with documents in a row, with the
length under a window, with the tokens predicted, and its memory beside what a plan says. Each is a law with a bound.

    python -m bertjax bench scale
    python -m bertjax bench scale --only=window,head --rounds=9
    python -m bertjax bench scale --model=base --model.dtype=bfloat16 --tokens=65536      on an accelerator"""

OPTIONS = Laws()

PADDING = (0.0, 0.2, 0.4, 0.6)
LENGTHS = (1024, 2048, 4096, 8192)
RATES = (
    0.05,
    0.1,
    0.2,
    0.4,
    0.8,
)  # each twice the one before: differences stand well above the clock's noise
WINDOW = 128


class Step:
    """A training step on one batch: calling it runs it once, and goes on from the state that the last call left."""

    def __init__(self, config: Config, batch: Batch) -> None:
        vocabulary = SyntheticCorpus(1, config.model.vocab, seed=0).vocabulary
        self.program = build(config, vocabulary, jax.devices()[:1])
        with self.program.active():
            self.state = create_state(self.program)
            self.compiled = make_train_step(self.program).lower(self.state, self.program.batch).compile()
        self.batch = self.place(batch)

    def place(self, batch: Batch) -> Batch:
        """The batch where the step wants it."""
        like = self.program.batch
        return jax.tree.map(lambda x, to: jax.device_put(x, to.sharding), batch, like)

    def __call__(self, batch: Batch | None = None) -> Any:
        """The metrics of a step."""
        with self.program.active():
            self.state, metrics = self.compiled(self.state, self.batch if batch is None else batch)
        return metrics


def config_of(model: EncoderConfig, rows: int, length: int, rate: float = 0.15) -> Config:
    """A run on packed rows that predicts words."""
    model = dataclasses.replace(model, max_length=max(model.max_length, length))
    data, train = DataConfig(format=BestFit(), length=length), TrainConfig(batch_size=rows)
    return Config(model=model, data=data, tasks=(Mlm(rate=rate),), train=train)


def batch_of(config: Config, documents: np.ndarray) -> Batch:
    """Full rows of some of these documents, packed best-fit: as many rows as the config has, drawn from all."""
    random, length = np.random.default_rng(0), config.data.length
    where = best_fit_decreasing(documents, length)
    chosen = random.choice(int(where.max()) + 1, config.train.batch_size, replace=False)
    place = np.full(int(where.max()) + 1, -1)
    place[chosen] = np.arange(len(chosen))
    kept = place[where] >= 0
    vocabulary = SyntheticCorpus(1, config.model.vocab, seed=0).vocabulary
    return packed_rows(documents[kept], place[where[kept]], length, vocabulary, random)


def padding(options: Laws) -> list[Seen]:
    """Packed, a real token costs the same however much padding its document would have come with."""
    length = 512
    config = config_of(options.model, options.tokens // length, length)
    batches = {share: batch_of(config, natural(share, length)) for share in PADDING}
    step = Step(config, batches[0.0])
    placed = {share: step.place(batch) for share, batch in batches.items()}
    runs = {share: functools.partial(step, batch) for share, batch in placed.items()}
    times = fastest(runs, options.rounds)
    each = {share: 1e6 * times[share] / int(np.sum(batch.mask)) for share, batch in batches.items()}
    points = {f"{share:.0%}": value for share, value in each.items()}
    law = "packed, time per real token is flat from 0 to 60 % padding"
    return [Seen(law, points, "us", "most over least", spread([*each.values()]), (0, 1.05))]


def natural(share: float, length: int) -> np.ndarray:
    """Lengths of documents of which padded rows would hold that share of padding: whole rows, and short ones."""
    random = np.random.default_rng(1)
    whole = 1 - share / 0.7  # the short ones fill 0.3 of a row
    short = random.integers(length // 10, length // 2 + 1, 4096)
    return np.where(random.random(4096) < whole, length, short).astype(np.int64)


def documents(options: Laws) -> list[Seen]:
    """A row of four documents costs what four rows of one do, where what lies between documents is not computed."""
    skips: dict[str, tuple[AttentionOptions, bool]] = {
        "windows": (Window(size=WINDOW), True),
        "full attention": (Full(), jax.default_backend() != "cpu"),
    }
    found = []
    for name, (attention, applies) in skips.items():
        model = dataclasses.replace(options.model, attention=attention)
        runs: dict[int, Callable[[], Any]] = {}
        for length in (512, 2048):
            config = config_of(model, options.tokens // length, length)
            runs[length] = Step(config, batch_of(config, np.full(options.tokens // 512, 512)))
        times = fastest(runs, options.rounds)
        points = {f"{512 * many} by {many}": 1e3 * times[512 * many] for many in (1, 4)}
        note = "" if applies else ", which skips no blocks here"
        law = f"four documents of 512 in a row of 2048, over four rows: {name}{note}"
        bounds = (0.0, 1.1) if applies else NOTHING
        found.append(Seen(law, points, "ms", "ratio", times[2048] / times[512], bounds))
    return found


def window(options: Laws) -> list[Seen]:
    """A token in a window does not see how long its row is."""
    model = dataclasses.replace(options.model, attention=Window(size=WINDOW), max_length=max(LENGTHS))
    runs, tokens = {}, max(options.tokens, 2 * max(LENGTHS))  # compilers lay a single row out otherwise
    for length in LENGTHS:
        config = config_of(model, tokens // length, length)
        runs[length] = Step(config, batch_of(config, np.full(tokens // length, length)))
    times = fastest(runs, options.rounds)
    points = {str(length): 1e6 * seconds / tokens for length, seconds in times.items()}
    grown = exponent(
        {length: times[length] * length / tokens for length in LENGTHS}, *LENGTHS[:: len(LENGTHS) - 1]
    )
    law = f"windows of {WINDOW}: time per token is flat from 1024 to 8192"
    return [
        Seen(
            law,
            points,
            "us",
            f"most over least (a row's time grows by {grown:.3f})",
            spread([*times.values()]),
            (0, 1.1),
        )
    ]


def head(options: Laws) -> list[Seen]:
    """Only what is predicted is paid for: from one number to the next, as much is added as there are more of them.

    So nothing has to be known of what a step costs without predictions. A head that ran over all positions would add
    nothing, which is an exponent of 0.
    """
    model = dataclasses.replace(options.model, layers=1, vocab=30522)
    runs, length = {}, 128
    rows = options.tokens // 4 // length
    for rate in RATES:
        config = config_of(model, rows, length, rate)
        runs[rate] = Step(config, batch_of(config, np.full(rows, length)))
    predicted = {rate: int(step()["predicted"][0]) for rate, step in runs.items()}
    times = fastest(runs, options.rounds)
    added = {
        predicted[more] - predicted[few]: times[more] - times[few] for few, more in itertools.pairwise(RATES)
    }
    grown = exponent(added, min(added), max(added)) if min(added.values()) > 0 else 0.0
    assert grown is not None, "four points"
    points = {f"{number} more": 1e3 * seconds for number, seconds in added.items()}
    law = "what further predictions add to a step grows with their number"
    return [Seen(law, points, "ms", "exponent", grown, (0.9, 1.1))]


def memory(options: Laws) -> list[Seen]:
    """A plan tells what a process will take."""
    model = dataclasses.replace(options.model, layers=4, width=512, heads=8, vocab=30522, scan=True)
    length = 128
    config = config_of(model, options.tokens // 2 // length, length)
    planned, seen, analytic = taken(config)
    points = {"planned": planned / 2**20, "taken": seen / 2**20}
    law = "memory of a step, over what a plan says"
    found = [Seen(law, points, "MiB", "ratio", seen / planned, (0.85, 1.15))]
    points = {"counted": analytic / 2**20, "compiled": planned / 2**20}
    law = "memory as counted without compiling, over what is compiled (held to nothing: it ranks meshes)"
    return [*found, Seen(law, points, "MiB", "ratio", analytic / planned, NOTHING)]


LAWS: dict[str, Callable[[Laws], Sequence[Seen]]] = {
    "padding": padding,
    "documents": documents,
    "window": window,
    "head": head,
    "memory": memory,
}


def run(options: Laws) -> None:
    """Measures the laws of a step."""
    measure(LAWS, options, "scale", code=CODE)

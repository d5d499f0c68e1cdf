"""The options that `bench train` and `bench infer` share, and what they do with them."""

import dataclasses
import importlib.metadata
import importlib.util

from bertjax.bench.row import FOREIGN, Job, Peer, Row, Rows
from bertjax.bench.speed import measure_rows
from bertjax.convert.parity import installed
from bertjax.layers.config import EncoderConfig
from bertjax.models.presets import PRESETS


@dataclasses.dataclass(frozen=True)
class Race:
    """What is measured, and how."""

    model: EncoderConfig = PRESETS["base"]
    """A preset, or its settings one by one; model.dtype is the precision of both sides."""
    batch: int = 16
    """Rows of the batch; where lengths are natural, documents."""
    length: int = 128
    """Tokens in a row."""
    rows: Rows = "real"
    """Without padding, or of natural lengths: ours packed, theirs padded."""
    dropout: bool = True
    """As the model says, or none."""
    peer: tuple[Peer, ...] = ("transformers",)
    """Beside whom: transformers on PyTorch, transformers-compiled (torch.compile), transformers-flax (its Flax models,
    before version 5), without-dropout (ourselves, without any), several with commas, or none."""
    rounds: int = 3
    """Rounds that count; in each all sides have a turn."""
    seconds: float = 1.0
    """How long a turn lasts, about; at least one step."""
    threads: int = 0
    """CPU threads of the peer; 0 for as many as there are cores, which is what JAX takes."""
    out: str = "runs/bench"
    """Folder for the results."""

    def __post_init__(self) -> None:
        """Refuses what measures nothing."""
        for name, least in (("batch", 1), ("length", 8), ("rounds", 1), ("threads", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")
        if self.length > self.model.max_length:
            raise ValueError(
                f"length={self.length} is more than model.max_length={self.model.max_length}: set both"
            )
        if not self.seconds > 0:
            raise ValueError(f"seconds={self.seconds} must be above 0")

    def row(self, job: Job) -> Row:
        """The measurement."""
        row = Row(job, self.model, self.batch, self.length, self.rows, self.peer, self.threads)
        return row if self.dropout else row.still


def race(job: Job, options: Race) -> None:
    """Measures one row."""
    check_peers([options.row(job)])
    rows = [options.row(job)]
    measure_rows(rows, rounds=options.rounds, seconds=options.seconds, out=options.out, name=job)


def check_peers(rows: list[Row]) -> None:
    """Refuses peers that are not installed."""
    beside_flax = [row for row in rows if "transformers-flax" in row.peers]
    if beside_flax:
        check_flax_peer()
    threads = next((row.threads for row in beside_flax if row.threads), None)
    if threads is not None:
        raise ValueError(
            f"threads={threads} cannot be given to transformers-flax, which takes all cores as JAX does: "
            "leave threads=0"
        )
    if any(peer in FOREIGN for row in rows for peer in row.peers) and not installed():
        raise ValueError(
            "the peer needs PyTorch and transformers, which are not installed: install them, or set --peer=none"
        )


def check_flax_peer() -> None:
    """Refuses an environment without Flax models, or without what computes their reference."""
    wrong, install = [], "'transformers<5'"
    if importlib.util.find_spec("transformers") is None:
        wrong.append("transformers is not installed")
    else:
        found = importlib.metadata.version("transformers")
        if int(found.partition(".")[0]) >= 5:
            wrong.append(f"transformers {found} has no Flax models")
    if importlib.util.find_spec("torch") is None:
        wrong.append("PyTorch, which computes the reference, is not installed")
        install += " torch"
    if wrong:
        raise ValueError(f"{' and '.join(wrong)}: pip install {install} into an environment of its own")

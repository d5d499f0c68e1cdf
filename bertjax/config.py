"""The configuration of a run: the parts of all components in one frozen record, and what may be chosen where."""

import dataclasses
import itertools
import json
import math
import os
import pathlib
import shutil
from typing import Any

import jax

from bertjax import settings
from bertjax import tasks as tasks_lib
from bertjax.adversarial import ADVERSARIES, AdversarialOptions, check_adversarial
from bertjax.attention import ATTENTIONS, check_attention, name_of
from bertjax.data.examples import Examples, Format
from bertjax.data.formats import FORMATS
from bertjax.data.open import corpus_names, open_examples
from bertjax.data.pairs import SegmentPair
from bertjax.layers.config import (
    ADAPTERS,
    PROMPTS,
    Adapter,
    AttentionOptions,
    EncoderConfig,
    Full,
    PositionOptions,
    Prompt,
)
from bertjax.layers.position import POSITIONS
from bertjax.models.decoder import DecoderHead
from bertjax.models.decoding import SEARCHES, SearchOptions
from bertjax.models.features import FEATURES, Features
from bertjax.models.presets import PRESETS
from bertjax.models.task_heads import HEADS, HeadOptions
from bertjax.optim import OPTIMIZERS, SCHEDULES, Muon, OptimConfig, OptimizerOptions, ScheduleOptions
from bertjax.sharding import MeshConfig
from bertjax.tasks import TASKS, Task
from bertjax.tasks.masking import MASKINGS, MaskingOptions
from bertjax.tasks.mlm import Mlm
from bertjax.tasks.nsp import Nsp
from bertjax.tune import TuneConfig, check_tune
from bertjax.watchdog import WatchdogConfig

IN_WORKDIR = "workdir"  # of data.cache and train.compiled

CHOICES: settings.Choices = {
    EncoderConfig: PRESETS,
    AttentionOptions: {name: variant.options for name, variant in ATTENTIONS.items()},
    PositionOptions: {name: scheme.options for name, scheme in POSITIONS.items()},
    Format: FORMATS,
    Task: TASKS,
    HeadOptions: {**HEADS, DecoderHead.name: DecoderHead()},
    Adapter: ADAPTERS,
    Prompt: PROMPTS,
    Features: FEATURES,
    AdversarialOptions: ADVERSARIES,
    SearchOptions: SEARCHES,
    MaskingOptions: MASKINGS,
    OptimizerOptions: OPTIMIZERS,
    ScheduleOptions: SCHEDULES,
}


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where rows come from."""

    corpus: str = "synthetic"
    """Folder written by `python -m bertjax prepare`; several with commas are mixed; `synthetic` is made up."""
    weights: tuple[float, ...] = ()
    """Of the rows that each of several corpora supplies; without any, their numbers of tokens."""
    temperature: float = 1.0
    """Of a mixture of corpora, or of tasks: shares go with size^(1/temperature), so above 1 small ones come forward."""
    format: Format = SegmentPair()
    """How text becomes rows."""
    length: int = 128
    """Tokens in a row."""
    shapes: int = 4
    """Lengths that batches of labelled records may have; the step is compiled for each."""
    window: int = 32
    """Batches of labelled records that are sorted by length together."""
    cache: str | None = IN_WORKDIR
    """Folder that keeps encoded labelled records between starts; `workdir` is one in the run's; none keeps none."""
    threads: int = 2
    """Loader threads; 0 loads in the training thread."""
    ahead: int = 4
    """Batches kept ready."""


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of a run before the last, with rows of its own."""

    until: int
    """Step at which it ends."""
    length: int
    """Tokens in a row, in place of data.length."""
    batch_size: int
    """Rows in an update, in place of train.batch_size."""
    microbatches: int = 1
    """Parts that a batch is split into, in place of train.microbatches."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The loop."""

    steps: int = 1_000_000
    """Updates in the whole run."""
    epochs: float | None = None
    """Passes over labelled records, in place of train.steps; none counts steps."""
    batch_size: int = 256
    """Rows in an update, over all devices."""
    microbatches: int = 1
    """Parts a batch is split into when it does not fit in memory; the gradient stays that of the whole."""
    phases: tuple[Phase, ...] = ()
    """Earlier parts of the run with other rows, in order; after them data.length and train.batch_size hold."""
    seed: int = 0
    """Everything random follows from it."""
    log_every: int = 50
    """Steps between lines in metrics.jsonl."""
    eval_every: int | None = 1000
    """Steps between evaluations on held-out text; none evaluates at the end only."""
    evals_per_epoch: int | None = None
    """Evaluations in a pass over labelled records, in place of train.eval_every; none counts steps."""
    eval_batches: int = 50
    """Batches of an evaluation at most; labelled records are all evaluated."""
    best: str | None = None
    """Held-out metric, as heldout_accuracy, whose best checkpoint is kept and used; none uses the last one."""
    patience: int | None = None
    """Evaluations without a better one after which the run ends; none goes on to the last step."""
    adversarial: AdversarialOptions | None = None
    """Noise in the embeddings that is trained against; none for none."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; one more is written at the end and on SIGTERM."""
    keep: int = 2
    """Checkpoints kept."""
    compiled: str | None = IN_WORKDIR
    """Folder that keeps compiled programs between starts; `workdir` is one in the run's; none keeps none."""
    watchdog: WatchdogConfig | None = WatchdogConfig()
    """When a run that stands still is given up and started again; none never."""


@dataclasses.dataclass(frozen=True)
class Config:
    """One run."""

    model: EncoderConfig = EncoderConfig()
    """The encoder: a preset, or its settings one by one."""
    data: DataConfig = DataConfig()
    """Where rows come from."""
    tasks: tuple[Task, ...] = (Mlm(), Nsp())
    """What is learned, all at once."""
    heads: tuple[HeadOptions, ...] = ()
    """Heads that a model came with and no task here learns: predictions and exports use them."""
    optim: OptimConfig = OptimConfig()
    """How parameters move."""
    tune: TuneConfig = TuneConfig()
    """Which of them move, and how far."""
    mesh: MeshConfig = MeshConfig()
    """Where arrays live."""
    train: TrainConfig = TrainConfig()
    """The loop."""


def check(config: Config) -> None:
    """Refuses combinations that no single part can see."""
    train, data = config.train, config.data
    if not config.tasks:
        raise ValueError(f"tasks is empty: choose from {', '.join(TASKS)}")
    for field in dataclasses.fields(train):
        value, optional = getattr(train, field.name), "None" in str(field.type)
        if field.name == "epochs" and value is not None and value <= 0:
            raise ValueError(f"train.epochs={value} must be above 0, or none to count train.steps")
        if isinstance(value, int) and field.name != "seed" and value < 1:
            off = ", or none for never" if optional else ""
            raise ValueError(f"train.{field.name}={value} must be at least 1{off}")
    for name, limit in dataclasses.asdict(train.watchdog).items() if train.watchdog else ():
        if not limit > 0:
            raise ValueError(
                f"train.watchdog.{name}={limit} must be above 0; train.watchdog=none is no watchdog"
            )
    optim = config.optim
    if optim.warmup_steps < 0 or not 0 <= optim.learning_rate < math.inf:
        raise ValueError(
            f"optim.learning_rate={optim.learning_rate} and optim.warmup_steps={optim.warmup_steps} "
            f"must not be negative; BERT has 1e-4 and 10000"
        )
    if optim.warmup_share is not None and not 0 <= optim.warmup_share <= 1:
        raise ValueError(f"optim.warmup_share={optim.warmup_share} is a share: from 0 to 1, as 0.1, or none")
    if optim.clip_norm is not None and optim.clip_norm <= 0:
        raise ValueError(f"optim.clip_norm={optim.clip_norm} must be above 0, or none for no clipping")
    check_tune(config.tune, config.model)
    check_adversarial(train.adversarial, config.tasks, config.model)
    if config.tune.trained != "all" and isinstance(optim.optimizer, Muon):
        raise ValueError(
            "optim.optimizer=muon moves whole matrices: set tune.trained=all or another optimizer"
        )
    check_attention(config.model, packed=data.format.packed)
    if config.mesh.sequence_attention == "ring" and not any(isinstance(k, Full) for k in config.model.kinds):
        raise ValueError(
            f"mesh.sequence_attention=ring is for model.attention=full, not {name_of(config.model.attention)}: "
            f"set mesh.sequence_attention=gather"
        )
    check_mixture(data)
    for number, phase in enumerate(train.phases):
        for name, value in vars(phase).items():
            if value < 1:
                raise ValueError(f"train.phases.{number}.{name}={value} must be at least 1")
    ends = [phase.until for phase in train.phases]
    if any(first >= last for first, last in itertools.pairwise([*ends, train.steps])):
        raise ValueError(
            f"train.phases end at {', '.join(map(str, ends))} and train.steps={train.steps}: these must ascend"
        )
    if not tasks_lib.labelled(config.tasks):
        for name in ("epochs", "evals_per_epoch"):
            if getattr(train, name) is not None:
                raise ValueError(
                    f"train.{name} counts passes over labelled records, and these tasks have none: leave it out"
                )
    elif train.phases:
        raise ValueError(
            "train.phases are for pretraining: batches of labelled records have several lengths anyway"
        )
    if train.patience is not None and train.best is None:
        raise ValueError(
            "train.patience waits for a better train.best, which is none: set train.best=heldout_loss"
        )
    most = max(train.microbatches, *(phase.microbatches for phase in train.phases), 1)
    tasks_lib.check(config.tasks, config.model, data.format, most)


def check_mixture(data: DataConfig) -> None:
    """Refuses corpora that are none, or weights that are not theirs."""
    names = corpus_names(data.corpus)
    if not names:
        raise ValueError(
            "data.corpus is empty: name a folder written by python -m bertjax prepare, or synthetic"
        )
    if len(set(names)) < len(names):
        raise ValueError(
            f"data.corpus={data.corpus} names one twice: give it a greater share by data.weights"
        )
    if data.weights and len(data.weights) != len(names):
        raise ValueError(
            f"data.weights has {len(data.weights)} values and data.corpus {len(names)}: give each corpus one, or none"
        )
    if min(data.weights, default=1.0) <= 0 or data.temperature <= 0:
        raise ValueError(
            f"data.weights={','.join(map(str, data.weights))} and data.temperature={data.temperature} "
            f"must be above 0: leave a corpus out instead"
        )


@dataclasses.dataclass(frozen=True)
class Stage:
    """Consecutive steps of a run with rows of one shape."""

    first: int
    last: int
    config: Config  # the run's, as if all of it had these rows


def stages(config: Config) -> list[Stage]:
    """The run, cut where its rows change."""
    result, first = [], 0
    for phase in config.train.phases:
        train = dataclasses.replace(
            config.train, phases=(), batch_size=phase.batch_size, microbatches=phase.microbatches
        )
        data = dataclasses.replace(config.data, length=phase.length)
        result.append(Stage(first, phase.until, dataclasses.replace(config, data=data, train=train)))
        first = phase.until
    rest = dataclasses.replace(config, train=dataclasses.replace(config.train, phases=()))
    return [*result, Stage(first, config.train.steps, rest)]


def open_rows(config: Config, split: str) -> Examples:
    """The rows of a split; held-out ones do not depend on the seed of the run."""
    data, seed = config.data, config.train.seed if split == "train" else 0
    return open_examples(
        data.corpus,
        split,
        format=data.format,
        length=data.length,
        seed=seed,
        vocab=config.model.vocab,
        weights=data.weights,
        temperature=data.temperature,
    )


def to_dict(config: Config) -> dict[str, Any]:
    """The config as JSON data."""
    return settings.to_dict(config, CHOICES)


def from_dict(data: dict[str, Any]) -> Config:
    """The inverse of `to_dict`."""
    return settings.from_dict(Config, data, CHOICES)


def fingerprint(config: Config, corpus: str) -> dict[str, Any]:
    """What a run may not change when it resumes: all that decides its numbers, but not where and how it is computed."""
    data = to_dict(config)
    for group, names in {
        "model": ("scan", "remat"),
        "data": ("corpus", "cache", "threads", "ahead"),
        "train": (
            *("microbatches", "log_every", "eval_batches", "checkpoint_every", "keep"),
            *("compiled", "watchdog"),
        ),
    }.items():
        for name in names:
            del data[group][name]
    if config.train.best is None:  # else when it is looked for decides which is found
        del data["train"]["eval_every"], data["train"]["evals_per_epoch"]
    for phase in data["train"]["phases"]:
        del phase["microbatches"]
    for task in data["tasks"]:
        task.get("records", {}).pop("path", None)
    del data["mesh"]
    data["data"]["corpus"] = corpus
    return data


def claim(workdir: str, config: Config, corpus: str) -> None:
    """Makes the workdir this run's, or checks that it is: an error lists what differs from the run it holds.

    The tokenizer moves in, so that the workdir alone is enough to predict with.
    """
    path = pathlib.Path(workdir) / "config.json"
    mine = fingerprint(config, corpus)
    if path.exists():
        theirs = read_workdir(workdir)[1]
        different = list(settings.differences(mine, theirs))
        if different:
            more = f" (and {len(different) - 3} more)" if len(different) > 3 else ""
            raise ValueError(
                f"{workdir} holds another run: {'; '.join(different[:3])}{more}; choose another --workdir or delete it"
            )
    if jax.process_index() == 0:
        record = {"config": to_dict(config), "fingerprint": mine, "digest": settings.digest(mine)}
        tokenizer = pathlib.Path(corpus_names(config.data.corpus)[0]) / "tokenizer"
        partial = path.with_suffix(".partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if tokenizer.is_dir():
                shutil.copytree(tokenizer, path.parent / "tokenizer", dirs_exist_ok=True)
            partial.write_text(json.dumps(record, indent=2) + "\n")
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise ValueError(f"cannot write {path}: {error.strerror}; choose another --workdir") from error


def read_workdir(workdir: str) -> tuple[Config, dict[str, Any]]:
    """The config and the fingerprint of the run that a workdir holds."""
    path = pathlib.Path(workdir) / "config.json"
    try:
        record = json.loads(path.read_text())
        return from_dict(record["config"]), record["fingerprint"]
    except FileNotFoundError:
        raise ValueError(f"{workdir} holds no run: {path} is missing; train there first") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): it was not written by this version") from None


def adopt(config: Config) -> Config:
    """The config with the encoder, and the tokenizer, of the run that `model.init` names, and what it adds to that."""
    folder = config.model.init
    if folder is None:
        return config
    theirs = read_workdir(folder)[0].model
    added = {name: getattr(config.model, name) or getattr(theirs, name) for name in ("adapter", "prompt")}
    model = dataclasses.replace(theirs, init=folder, **added)
    corpus = folder if config.data.corpus == DataConfig().corpus else config.data.corpus
    return dataclasses.replace(config, model=model, data=dataclasses.replace(config.data, corpus=corpus))

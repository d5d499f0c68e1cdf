"""The same fine-tuning in PyTorch's transformers beside this project's: one table of accuracy and time.

    python -m experiments.finetune.peer --run=news --workdir=runs/peer [--set=model.dtype=bfloat16] [--seeds=3]

Both sides learn the same records from the same weights, cut to the same number of tokens, with Adam, warm-up, linear
decay, clipping, and dropout as the weights have it, and each is evaluated once, at its end. They differ in the recipe.
PyTorch has the usual one for these sets, `RECIPE` below, at which 97.3 % of news and 77.5 % of tweets were right; this
project has that of the experiment, at a higher rate: news once and in smaller batches, tweets one and a half times.
What counts is how often they are right, and how long that took. PyTorch pads each batch to its longest row, which is
the least that it can do in a random order; here batches are of rows of like length. Each run is a command of its own,
and its time is that of the whole command, from the start of the interpreter to its end: imports, tokenising, compiling
and evaluating are in it. They take turns, so that none has the machine to itself.

What was measured is kept below the workdir and not measured again. Needs torch and transformers.
"""

import dataclasses
import json
import pathlib
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Literal

from bertjax import experiment, settings
from bertjax.config import CHOICES, Config
from bertjax.data.files import replace_file
from bertjax.tasks.classify import Classify
from experiments.finetune import packages

HEAD = (
    "side",
    "seed",
    "accuracy",
    "whole command (s)",
    "of it compiling (s)",
    "training (s)",
    "evaluating (s)",
)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How PyTorch learns."""

    epochs: int
    batch_size: int
    length: int  # tokens of a row at most
    rate: float
    warmup: float = 0.1  # share of the steps
    decay: float = 0.01  # of weights
    clip: float = 1.0  # norm of the gradient


RECIPE = Recipe(epochs=2, batch_size=32, length=128, rate=1e-4)


@dataclasses.dataclass(frozen=True)
class Peer:
    """What is run on both sides."""

    run: Literal["news", "tweets"] = "news"
    """The experiment beside this file."""
    workdir: str = "runs/peer"
    """Folder of all runs of both sides."""
    seeds: int = 1
    """Runs of this project."""
    peers: int = 1
    """Runs of PyTorch, of the first seeds."""
    set: tuple[str, ...] = ()
    """Settings of this project's runs, as in --set=model.dtype=bfloat16."""
    autocast: bool = False
    """Whether PyTorch computes in bfloat16 where it holds that to be safe."""
    seed: int | None = None
    """One run of PyTorch with this seed, here and now; none compares."""

    def __post_init__(self) -> None:
        """Refuses what is no number of runs."""
        if self.seeds < 1 or not 0 <= self.peers <= self.seeds:
            raise ValueError(f"seeds={self.seeds} and peers={self.peers}: 1 <= seeds and 0 <= peers <= seeds")


def main(arguments: list[str]) -> int:
    """0 if all runs succeeded, 2 for wrong input."""
    try:
        options = settings.from_arguments(Peer(), arguments, {}, (__doc__ or "").strip())
        experiment.check_folder(options.workdir)
        if options.seed is None:
            compare(options)
        else:
            print(json.dumps(train_peer(options, options.seed)))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def compare(options: Peer) -> None:
    """Runs what was not measured before, in turns, and prints the table."""
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        rows.append(measured(options, "bertjax", seed))
        if seed < options.peers:
            rows.append(measured(options, "transformers", seed))
    text = "\n".join([*table(rows), *verdict(rows)])
    replace_file(str(pathlib.Path(options.workdir) / f"{options.run}.md"), f"{text}\n".encode())
    print(text)


def measured(options: Peer, side: str, seed: int) -> dict[str, Any]:
    """One run in a process of its own: what it reached, and how long each part took."""
    kind = "-".join([side, *options.set] if side == "bertjax" else [side, *["autocast"] * options.autocast])
    folder = pathlib.Path(options.workdir) / options.run / re.sub(r"[^\w.=-]", "_", kind) / str(seed)
    path = folder / "measured.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    print(f"{kind} with seed {seed} ...", file=sys.stderr, flush=True)
    if side == "bertjax":
        changes = [*options.set, f"train.seed={seed}"]
        command = ["experiments.finetune." + options.run, *(f"--set={one}" for one in changes)]
    else:
        command = ["experiments.finetune.peer", f"--run={options.run}", f"--seed={seed}"]
        command += [f"--autocast={str(options.autocast).lower()}"]
    began = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-m", *command, f"--workdir={folder}"], capture_output=True, text=True
    )
    seconds = time.perf_counter() - began
    if ended.returncode:
        told = (ended.stderr or "nothing").strip().splitlines()[-1]
        raise ValueError(f"python -m {' '.join(command)} ended with {ended.returncode}: {told}")
    result = json.loads(ended.stdout.splitlines()[-1])
    found = {"side": kind, "seed": seed, "whole": seconds}
    if side == "bertjax":
        found |= parts_of(folder, ended.stderr) | {"accuracy": result["metrics"]["heldout_accuracy"]}
    else:
        found |= result
    replace_file(str(path), json.dumps(found).encode())
    return found


def parts_of(folder: pathlib.Path, told: str) -> dict[str, float]:
    """Seconds of this project's run that went into the step's compilation, its steps, and all evaluations."""
    compiling = sum(float(one) for one in re.findall(r"^compiled in ([\d.]+) s", told, re.MULTILINE))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    training = before = 0.0
    for line in lines:
        if "steps_per_second" in line:
            training += (line["step"] - before) / line["steps_per_second"]
            before = line["step"]
    whole = json.loads((folder / "result.json").read_text())["seconds"]
    return {"compiling": compiling, "training": training, "evaluating": whole - compiling - training}


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """All runs, in Markdown."""
    cells = [
        (
            row["side"],
            str(row["seed"]),
            f"{row['accuracy']:.2%}",
            *(f"{row[name]:.1f}" for name in ("whole", "compiling", "training", "evaluating")),
        )
        for row in sorted(rows, key=lambda row: (row["side"], row["seed"]))
    ]
    lines = [HEAD, tuple("-" * len(name) for name in HEAD), *cells]
    wide = [max(len(line[place]) for line in lines) for place in range(len(HEAD))]
    return [
        "| " + " | ".join(cell.ljust(size) for cell, size in zip(line, wide, strict=True)) + " |"
        for line in lines
    ]


def verdict(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Means, spread and ratios of the two sides."""
    sides: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        sides.setdefault(row["side"], []).append(row)
    lines = []
    for side, some in sides.items():
        found = [row["accuracy"] for row in some]
        spread = f", standard deviation {statistics.stdev(found):.2%}" if len(found) > 1 else ""
        lines.append(f"{side}: accuracy {statistics.mean(found):.2%}{spread} over {len(found)} runs")
    ours, *others = sides.values()
    for theirs in others:
        whole, rest = (
            statistics.median(map(part, ours)) / statistics.median(map(part, theirs))
            for part in (lambda row: row["whole"], lambda row: row["whole"] - row["compiling"])
        )
        lines.append(
            f"time of {ours[0]['side']} / {theirs[0]['side']}: {whole:.2f}, without compiling {rest:.2f}"
        )
    return ["", *lines]


# ---------------------------------------------------------------------------------------------- PyTorch


def train_peer(options: Peer, seed: int) -> dict[str, float]:
    """One run of PyTorch: its accuracy, and seconds."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ValueError(
            f"the peer needs PyTorch and transformers ({error}): pip install torch transformers"
        ) from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    module = import_module(f"experiments.finetune.{options.run}")
    config: Config = settings.override(module.config(), (), CHOICES)
    task = module.with_records(config, options.workdir)
    assert isinstance(task, Classify) and config.data.length == RECIPE.length
    splits = {name: task.read(name) for name in ("train", "heldout")}
    task = task.resolve(splits["train"])
    folder = packages.minilm()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows, labels = {}, {}
    for name, split in splits.items():
        texts = split.texts(task.text, "text")
        rows[name] = tokenizer(texts, truncation=True, max_length=RECIPE.length)["input_ids"]
        labels[name] = torch.as_tensor(task.numbers(split)[0]).long()

    torch.manual_seed(seed)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=len(task.labels)
    )
    bare = [p for n, p in model.named_parameters() if n.endswith("bias") or "LayerNorm" in n]
    names = {id(p) for p in bare}
    rest = [p for p in model.parameters() if id(p) not in names]
    size = RECIPE.batch_size
    groups = [{"params": rest, "weight_decay": RECIPE.decay}, {"params": bare, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RECIPE.rate, eps=1e-6)
    steps = RECIPE.epochs * -(-len(rows["train"]) // size)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, round(RECIPE.warmup * steps), steps)

    def forward(name: str, chosen: list[int], **targets: Any) -> Any:
        batch = tokenizer.pad({"input_ids": [rows[name][one] for one in chosen]}, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16, enabled=options.autocast):
            return model(**batch, **targets)

    def accuracy() -> float:
        """Over all held-out records, those of like length together."""
        model.eval()
        order = sorted(range(len(rows["heldout"])), key=lambda one: len(rows["heldout"][one]))
        right = 0
        with torch.inference_mode():
            for start in range(0, len(order), size):
                chosen = order[start : start + size]
                best = forward("heldout", chosen).logits.argmax(-1)
                right += int((best == labels["heldout"][chosen]).sum())
        return right / len(order)

    began = time.perf_counter()
    model.train()
    for _ in range(RECIPE.epochs):
        order = torch.randperm(len(rows["train"])).tolist()
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            loss = forward("train", chosen, labels=labels["train"][chosen]).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), RECIPE.clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    learned = time.perf_counter()
    found = accuracy()
    evaluated = time.perf_counter()
    return {
        "accuracy": found,
        "compiling": 0.0,
        "training": learned - began,
        "evaluating": evaluated - learned,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

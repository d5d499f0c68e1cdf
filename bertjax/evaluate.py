"""`--mode=evaluate`: held-out metrics of a workdir's newest whole checkpoint, and what they are held against."""

import collections
import dataclasses
import json
import math
import statistics
from collections.abc import Sequence

import jax
import numpy as np

from bertjax import finetune, parts, settings, tasks
from bertjax.checkpoint import Checkpoints
from bertjax.config import CHOICES, Config, open_rows, read_workdir, stages, to_dict
from bertjax.data.loader import Loader
from bertjax.history import History
from bertjax.program import build
from bertjax.sharding import MeshConfig, make_mesh
from bertjax.step import make_eval_step


def run(workdir: str, mesh: MeshConfig, assignments: Sequence[str] = ()) -> dict[str, float]:
    """Evaluates with the run's own config on any mesh, and prints one line of JSON.

    Rows are those of the phase that the checkpoint is from. Of the `assignments` of the command line those count that
    leave the model and its tasks what they are.
    """
    config = settings.override(
        dataclasses.replace(read_workdir(workdir)[0], mesh=mesh),
        [assignment for assignment in assignments if not assignment.startswith("mesh.")],
        CHOICES,
    )
    ours, theirs = (to_dict(one) for one in (config, read_workdir(workdir)[0]))
    for part in ("model", "tasks"):
        for difference in settings.differences(ours[part], theirs[part], part):
            raise ValueError(f"{workdir} was trained otherwise: {difference}; leave that setting out")
    checkpoints = Checkpoints(workdir)
    step = checkpoints.latest()
    if step is None:
        raise ValueError(f"{workdir} holds no whole checkpoint to evaluate: train there first")
    if tasks.labelled(config.tasks):
        return _labelled(workdir, config)
    config = next(stage.config for stage in stages(config) if step <= stage.last)
    heldout = open_rows(config, "heldout")
    program = build(config, heldout.vocabulary, segmented=heldout.segmented)
    loader = Loader(heldout, config.train.batch_size, seed=0, shuffle=False)
    with program.active():
        params = checkpoints.restore_params(step, program.state.params)
        values = parts.evaluate(program, make_eval_step(program), params, loader)
    print(json.dumps({"step": step, **{f"heldout_{name}": value for name, value in values.items()}}))
    return values


def _labelled(workdir: str, config: Config) -> dict[str, float]:
    """The scores of the checkpoint that counts."""
    sets = finetune.open_sets(config, ("heldout",), workdir)
    program = build(sets.config, sets.tokenizer.vocabulary, lengths=sets.lengths)
    checkpoints = Checkpoints(workdir)
    newest = checkpoints.latest()
    assert newest is not None
    step = History(workdir, config.train, newest).best or newest
    with program.active():
        params = checkpoints.restore_params(step, program.state.params)
        values = finetune.Exam(program, sets).evaluate(params)
    print(json.dumps({"step": step, **{f"heldout_{name}": value for name, value in values.items()}}))
    return values


@dataclasses.dataclass(frozen=True)
class Baselines:
    """What can be had without a model, on exactly the held-out predictions that an evaluation makes."""

    token: int  # the most frequent one of the training text
    token_share: float  # of the hidden tokens that are this one
    pairs: int  # rows with two segments
    exchanged_share: float  # of them that do not belong together; 0 where the tasks learn nothing of pairs


def baselines(config: Config) -> Baselines:
    """Counts in the rows of an evaluation what its metrics are to be compared with."""
    rows, examples = open_rows(config, "train"), open_rows(config, "heldout")
    counts = np.zeros(rows.vocabulary.size, np.int64)
    for start in range(0, len(rows), 4096):
        indices = range(start, min(start + 4096, len(rows)))
        part = rows.rows([0] * len(indices), indices)
        counts += np.bincount(part["tokens"][part["mask"]], minlength=len(counts))
    token = int(np.argmax(np.where(rows.vocabulary.special, 0, counts)))
    loader = Loader(examples, config.train.batch_size, seed=0, shuffle=False)
    mesh = make_mesh(config.mesh)
    step = config.train.steps  # of an evaluation
    hide = jax.jit(lambda batch: tasks.corrupt(config.tasks, batch, rows.vocabulary, seed=0, step=step))
    total: collections.Counter[str] = collections.Counter()
    for index in range(min(loader.steps, config.train.eval_batches)):
        batch = jax.device_get(hide(loader.place(index, mesh, config.mesh.rules)))
        if "pair" in batch.targets:
            real = batch.mask[:, 0]
            total["pairs"] += int(real.sum())
            total["exchanged"] += int((batch.targets["pair"]["label"] * real).sum())
        hidden = batch.targets["mlm"]["weights"] > 0
        total["hidden"] += int(hidden.sum())
        total["frequent"] += int(((batch.targets["mlm"]["labels"] == token) & hidden).sum())
    return Baselines(
        token=token,
        token_share=total["frequent"] / total["hidden"],
        pairs=total["pairs"],
        exchanged_share=total["exchanged"] / max(total["pairs"], 1),
    )


def better_than_coin(accuracy: float, number: int) -> float:
    """The probability that a fair coin is right at least so often in `number` throws (normal approximation)."""
    right = round(accuracy * number)
    return 1 - statistics.NormalDist().cdf((right - 0.5 - number / 2) / math.sqrt(number / 4))

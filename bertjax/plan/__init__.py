"""What a run will need, known before it starts and without the machine: `--mode=plan` compiles the real train step.

    python -m experiments.pretrain.bert_base --mode=plan --topology=v5e:16x16 [--search] [--set ...]

    topology      names of machines, their devices and what is known of their chips
    compile       the real step, compiled ahead of time; its memory
    hlo           the compiler's text, read
    collectives   what the step sends, and along which mesh axes
    traffic       what it reads and writes
    roofline      an estimate of its time
    analytic      memory and exchanges of any mesh without compiling: for ranking, for advice, and for GPUs
    advice        what to change where a step does not fit
    search        meshes, rules, remat and microbatches, ranked
    report        all of it as text

Times are estimates; nothing here needs a TPU, a GPU or a network.
"""

import json
import pathlib
from typing import Any

from bertjax.config import Config, stages
from bertjax.data.corpus import Vocabulary
from bertjax.plan.planner import plan
from bertjax.plan.topology import Topology, find

__all__ = ["Topology", "find", "plan", "run"]


def run(
    config: Config,
    vocabulary: Vocabulary,
    workdir: str,
    *,
    topology: Topology | None = None,
    search: bool = False,
    notes: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Prints a plan and writes it to plan.json in the workdir; `fits` is False where the memory does not suffice."""
    from bertjax.plan import report
    from bertjax.plan.search import search as search_meshes

    last = stages(config)[-1]
    if search:
        if topology is None:
            raise ValueError("--search plans for a machine by name: add --topology, as --topology=v5e:16x16")
        if len(stages(config)) > 1:
            notes = (*notes, f"searched for the rows of the last phase, from step {last.first:,} on")
        result = search_meshes(last.config, vocabulary, topology, say=lambda line: print(line, flush=True))
        print(report.searched(result))
    else:
        phases = []
        for stage in stages(config):
            if config.train.phases:
                print(
                    f"steps         {stage.first:,} to {stage.last:,}: rows of {stage.config.data.length} tokens"
                )
            phases.append(plan(stage.config, vocabulary, topology=topology, steps=stage.last - stage.first))
            print(report.text(phases[-1]))
        result = dict(phases[-1])
        if config.train.phases:
            result |= {"phases": phases, "fits": all(phase["fits"] for phase in phases)}
            print(report.altogether(phases))
    result["notes"] = [*notes, *result.get("notes", [])]
    for note in result["notes"]:
        print(f"note          {note}")
    path = pathlib.Path(workdir) / "plan.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to    {path}")
    return result

"""What to change where a step does not fit: the fewest settings that, by the analytic count, bring it under 90 %.

The count is scaled to what the compiler asked for, so that it starts from the truth; what it then says of other
settings is a prediction.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence

from jax.sharding import Mesh

from bertjax.config import CHOICES, Config
from bertjax.data.corpus import Vocabulary
from bertjax.plan import analytic
from bertjax.settings import override

SPARE = 0.9  # of the memory is what a plan may take: compilers change, and a profiler wants room


def advise(
    config: Config,
    vocabulary: Vocabulary,
    model: analytic.Model,
    mesh: Mesh,
    platform: str,
    needed: int,
    available: int,
) -> dict[str, object]:
    """Settings to try, the bytes they are predicted to take, and whether that is enough."""
    sizes = dict(mesh.shape)
    now = analytic.memory(config, vocabulary, model, sizes, platform).total
    best: tuple[int, Sequence[str]] = (needed, ())
    for settings in changes(config, sizes, platform):
        try:
            changed = override(config, settings, CHOICES)
            over = sizes_of(settings, sizes)
            analytic.legal(changed, model, over)
        except ValueError:
            continue
        total = analytic.memory(changed, vocabulary, model, over, platform).total
        predicted = int(needed * total / now)
        if predicted < best[0]:
            best = (predicted, settings)
        if predicted <= SPARE * available:
            return {"settings": list(settings), "predicted": predicted, "enough": True}
    return {"settings": list(best[1]), "predicted": best[0], "enough": False}


def changes(config: Config, sizes: Mapping[str, int], platform: str) -> Iterator[tuple[str, ...]]:
    """Combinations of settings that save memory, those with the fewest and the cheapest first."""
    knobs: list[list[str]] = []
    if platform in ("tpu", "gpu") and config.model.attention_dropout:
        knobs.append(["model.attention_dropout=0"])  # the fused kernels have none
    if config.model.dtype == "float32":
        knobs.append(["model.dtype=bfloat16"])
    parts = config.train.microbatches
    knobs.append([f"train.microbatches={parts * times}" for times in (2, 4, 8, 16)])
    if config.model.remat != "block":
        knobs.append(["model.remat=block"])
    replicas = sizes["data"] * sizes["fsdp"]
    wider = [
        n for n in range(2 * sizes["fsdp"], replicas + 1) if replicas % n == 0 and n % sizes["fsdp"] == 0
    ]
    knobs.append([f"mesh.fsdp={n}" for n in wider])
    for number in range(1, len(knobs) + 1):
        for chosen in itertools.combinations(knobs, number):
            for settings in itertools.product(*chosen):
                split = [s for s in settings if s.startswith("mesh.fsdp=")]
                rules = ["mesh.rules=fsdp"] if split and config.mesh.rules == "data" else []
                yield (*settings, *rules)


def sizes_of(settings: Sequence[str], sizes: Mapping[str, int]) -> dict[str, int]:
    """The mesh after a change of `mesh.fsdp`, which takes its devices from `data`."""
    fsdp = next((int(s.split("=")[1]) for s in settings if s.startswith("mesh.fsdp=")), sizes["fsdp"])
    return {**sizes, "data": sizes["data"] * sizes["fsdp"] // fsdp, "fsdp": fsdp}

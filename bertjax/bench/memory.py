"""What a step takes of memory, measured in a process of its own beside what a plan of it says.

On a CPU a step's memory is what the process holds at its highest while the step runs, above what it held when all was
compiled and nothing lay there yet; an accelerator counts it itself, and there parameters of the first state are in it.
"""

import gc
from typing import Any

import jax

from bertjax.bench.machine import ENVIRONMENT, forget_peak, peak_memory, resident_memory
from bertjax.config import Config
from bertjax.data.synthetic import SyntheticCorpus
from bertjax.data.workers import Pool, available_cores
from bertjax.plan import analytic, plan
from bertjax.program import build, create_state
from bertjax.step import make_train_step


def taken(config: Config) -> tuple[int, int, int]:
    """Bytes: as planned, as seen, and as counted without compiling."""
    with Pool(
        1, f"{__name__}:Child", config, environment={**ENVIRONMENT, "OMP_NUM_THREADS": str(available_cores())}
    ) as pool:
        found: tuple[int, int, int] = next(pool.map([None]))
    return found


class Child:
    """Plans a step, and runs it."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, _: None) -> tuple[int, int, int]:
        """What `taken` gives."""
        vocabulary = SyntheticCorpus(1, self.config.model.vocab, seed=0).vocabulary
        devices = jax.devices()[:1]
        planned = plan(self.config, vocabulary, devices)["bytes_per_device"]["total"]
        program = build(self.config, vocabulary, devices)
        counted = analytic.memory(
            self.config, vocabulary, analytic.describe(program), dict(program.mesh.shape), devices[0].platform
        ).total
        with program.active():
            step = make_train_step(program).lower(program.state, program.batch).compile()
            create_state(program)  # is compiled, and let go
            gc.collect()
            before = resident_memory()
            state: Any = create_state(program)
            batch = jax.tree.map(
                lambda x: jax.device_put(jax.numpy.ones(x.shape, x.dtype), x.sharding), program.batch
            )
            state, _ = jax.block_until_ready(step(state, batch))
            forget_peak()
            state, _ = jax.block_until_ready(step(state, batch))
        stats = devices[0].memory_stats() or {}
        seen = int(stats["peak_bytes_in_use"]) if "peak_bytes_in_use" in stats else peak_memory() - before
        return planned, seen, counted

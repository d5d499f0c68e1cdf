"""Our side of a comparison, in a process of its own: the step of a training run, or the encoder alone.

The step is that of every run (`step.make_train_step`): masking, loss, gradients, clipping, AdamW, metrics, with the
state's memory taken over. The process also measures the two ceilings, turn by turn with everything else.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from bertjax import heap, tasks
from bertjax.bench.ceiling import matmul, size_of_matmul, skeleton
from bertjax.bench.machine import forget_peak, peak_memory, processor, resident_memory
from bertjax.bench.row import Row, for_peer
from bertjax.config import Config
from bertjax.convert.model import Model, shapes_of, unrolled
from bertjax.convert.writing import plan_writing, write_config, write_tensors
from bertjax.data.workers import available_cores
from bertjax.inherit import flat
from bertjax.layers.config import Full
from bertjax.layers.mask import AttentionMask
from bertjax.models.cost import flops_per_token
from bertjax.models.stacking import unstack_layers
from bertjax.program import Program, build, create_state
from bertjax.step import make_train_step
from bertjax.types import Batch, Tree

WEIGHTS, BATCH = "model.safetensors", "batch.npz"


class Ours:
    """Answers what the other process asks: (method, arguments)."""

    def __init__(self, row: Row, folder: str) -> None:
        self.row, self.folder = row, pathlib.Path(folder)
        heap.keep()  # as experiments do
        self.libraries = resident_memory()
        self.program = self.build(row.config)
        self.batch: Batch = jax.tree.map(
            lambda x, like: jax.device_put(x, like.sharding), row.inputs, self.program.batch
        )
        corrupt = functools.partial(tasks.corrupt, row.config.tasks, vocabulary=row.vocabulary)
        with self.program.active():
            self.state = create_state(self.program)
            self.corrupted: Batch = jax.device_get(
                jax.jit(lambda batch: corrupt(batch, seed=row.config.train.seed, step=0))(self.batch)
            )
        if row.job == "infer":
            self.state = dataclasses.replace(self.state, opt_state={})
            read = jax.device_put(self.corrupted.tokens, self.batch.tokens.sharding)
            self.batch = self.batch.replace(tokens=read)  # what the other side reads, too
        self.runs: dict[str, Callable[[], Any]] = {}

    def build(self, config: Config) -> Program:
        """The program of a run on one device."""
        return build(config, self.row.vocabulary, jax.devices()[:1])

    def __call__(self, task: tuple[Any, ...]) -> Any:
        """Does it."""
        method, *arguments = task
        with self.program.active():
            return getattr(self, method)(*arguments)

    def write(self) -> None:
        """Weights and batch for the other side, under the names of its own files."""
        plan = self.plan(self.state.params)
        write_config(plan, self.folder)
        write_tensors(plan, self.folder / WEIGHTS)
        given: dict[str, Any] = for_peer(self.corrupted, self.row.vocabulary, self.row.length)
        np.savez(self.folder / BATCH, **given)

    def plan(self, params: Tree) -> Any:
        """How a tree like that of the parameters is written."""
        leaves = flat(unstack_layers(params))
        config = unrolled(self.program.config)
        return plan_writing(
            Model(config, shapes_of(config), lambda path: np.asarray(leaves[path])), family="bert"
        )

    def check(self) -> dict[str, float]:
        """Loss and gradients without dropout, or hidden states: written for the other side to compare."""
        if self.row.job == "infer":
            hidden = np.asarray(infer(self.program)(self.state.params, self.batch), np.float32)
            np.save(
                self.folder / hidden_file("ours"), hidden[np.asarray(self.batch.mask)]
            )  # document by document
            return {}
        value, gradients = jax.jit(jax.value_and_grad(loss_of(self.program)))(self.state.params, self.batch)
        write_tensors(self.plan(gradients), self.folder / gradients_file("ours"))
        return {"loss": float(value)}

    def prepare(self) -> dict[str, Any]:
        """Compiles; says what was compiled, and on what."""
        row, began = self.row, time.perf_counter()
        if row.job == "train":
            step = make_train_step(self.program).lower(self.state, self.batch).compile()

            def run() -> Any:
                self.state, metrics = step(self.state, self.batch)
                return metrics

            self.runs["step"] = run
        else:
            step = infer(self.program).lower(self.state.params, self.batch).compile()
            self.runs["step"] = lambda: step(self.state.params, self.batch)
        compiled = time.perf_counter() - began
        heap.reserve([step])
        jax.block_until_ready(
            self.runs["step"]()
        )  # takes the state over: memory is what it will be from here on
        device = jax.devices()[0]
        on_cpu = device.platform == "cpu"
        size, repeats = size_of_matmul(on_cpu=on_cpu)
        self.runs["matmul"], self.matmul_flops = matmul(size, row.model.compute, repeats)
        self.runs["skeleton"] = skeleton(self.products())
        for name in ("matmul", "skeleton"):
            self.runs[name]()
        forget_peak()
        return {
            "platform": device.platform,
            "device": processor() if on_cpu else device.device_kind,
            "cores": available_cores(),
            "jax": jax.__version__,
            "parameters": self.program.parameters,
            "compile_seconds": compiled,
            "tokens": int(np.asarray(self.batch.mask).sum()),
            "fill": float(np.asarray(self.batch.mask).mean()),
            "flops": self.flops(),
            "matmul_flops": self.matmul_flops,
        }

    def flops(self) -> float:
        """Useful operations of one run: those of real tokens, counted from the model."""
        row, mask = self.row, np.asarray(self.batch.mask)
        seen = AttentionMask(self.batch.mask, self.batch.segments).intervals(*reversed(mask.shape))
        attended = float(np.where(mask, np.asarray(seen[1]) - np.asarray(seen[0]), 0).sum() / mask.sum())
        if row.job == "infer":
            return float(mask.sum()) * flops_per_token(row.model, attended=attended, predicted=0.0) / 3
        share = float(np.asarray(self.corrupted.targets["mlm"]["weights"]).sum() / mask.sum())
        per_token = tasks.flops_per_token(row.config.tasks, row.model, attended=attended, predicted=share)
        return float(mask.sum()) * per_token

    def products(self) -> Any:
        """The program whose matrix products the skeleton has; a fused kernel would hide them."""
        model = self.row.model
        if isinstance(model.attention, Full):
            model = dataclasses.replace(
                model, attention=dataclasses.replace(model.attention, backend="reference")
            )
        program = self.build(dataclasses.replace(self.row.config, model=model))
        run = infer(program) if self.row.job == "infer" else jax.grad(loss_of(program))
        return jax.make_jaxpr(run)(self.state.params, self.batch).jaxpr

    def measure(self, what: str, times: int) -> float:
        """Seconds of one run, the mean of some that follow each other at once."""
        run, began = self.runs[what], time.perf_counter()
        for _ in range(times):
            done = run()
        jax.block_until_ready((done, self.state))
        return (time.perf_counter() - began) / times

    def memory(self) -> int:
        """Bytes at the highest."""
        return memory_above(self.libraries)


def gradients_file(side: str) -> str:
    """Where a side writes its gradients, to be compared."""
    return f"gradients-{side}.safetensors"


def hidden_file(side: str) -> str:
    """Where a side writes its hidden states, to be compared."""
    return f"hidden-{side}.npy"


def memory_above(libraries: int) -> int:
    """Bytes at the highest, of the device or, on a CPU, of the process above what its libraries take."""
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    return peak_memory() - libraries


def loss_of(program: Program) -> Callable[[Tree, Batch], jax.Array]:
    """The loss of a batch as training corrupts it in its first step, without dropout."""
    config = program.config

    def loss(params: Tree, batch: Batch) -> jax.Array:
        batch = tasks.corrupt(config.tasks, batch, program.vocabulary, config.train.seed, 0)
        outputs = program.apply(params, batch, train=False)
        return tasks.total_loss(config.tasks, outputs, batch, tasks.normalisers(config.tasks, batch))[0]

    return loss


def infer(program: Program) -> Any:
    """The compiled encoder: parameters and batch to hidden states."""

    def encode(params: Tree, batch: Batch) -> jax.Array:
        output: Any = program.apply(params, batch, train=False, method="encode")
        hidden: jax.Array = output.hidden
        return hidden

    return jax.jit(encode)

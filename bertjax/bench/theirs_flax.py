"""The other side in JAX: the Flax models that `transformers` had before version 5, doing the identical work.

The same weights and the same corrupted batch, read from the same files; `FlaxBertForPreTraining`, or the class with the
heads that the row has, called as its own examples call it: logits at every position, one-hot labels, the sum of the
masked losses over their number, and the mean over the pairs; dropout; gradients, clipping of their global norm at 1 and
optax's AdamW, which spares biases and norms; one jitted step that takes its state over. bfloat16 is its `dtype=`.

Its attention drops the same places in all rows and heads (that is how the module is written), where ours and PyTorch's
draw for each: the other side has fewer random bits to make, and is left that advantage.

Loss and gradients without dropout, or hidden states, are written under PyTorch's names for the reference to compare.
"""

import pathlib
import time
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState

from bertjax.bench.ceiling import matmul, size_of_matmul
from bertjax.bench.machine import forget_peak, resident_memory
from bertjax.bench.ours import BATCH, gradients_file, hidden_file, memory_above
from bertjax.bench.row import IGNORED, Row
from bertjax.convert.parity import quiet
from bertjax.data.workers import available_cores
from bertjax.inherit import flat, name_of
from bertjax.optim import AdamW, OptimConfig
from bertjax.types import Tree

Arrays = dict[str, jax.Array]


class TheirsFlax:
    """Answers what the other process asks: (method, arguments)."""

    def __init__(self, row: Row, folder: str, peer: str, platform: str, threads: int) -> None:
        import transformers

        assert jax.default_backend() == platform and threads == available_cores(), (platform, threads)
        kind: Any = getattr(transformers, f"Flax{row.peer_class}")
        self.libraries = resident_memory()
        # Its heads add a bias to arrays of more dimensions, which an environment may have forbidden.
        jax.config.update("jax_numpy_rank_promotion", "allow")
        self.row, self.folder, self.peer = row, pathlib.Path(folder), peer
        given = np.load(self.folder / BATCH)
        self.batch = {name: jnp.asarray(given[name].astype(np.int32)) for name in given.files}
        self.labels = {name: self.batch.pop(name) for name in list(self.batch) if "label" in name}
        with quiet():
            self.model = kind.from_pretrained(str(self.folder), dtype=row.model.compute)
        self.runs: dict[str, Callable[[], Any]] = {}

    def __call__(self, task: tuple[Any, ...]) -> Any:
        """Does it."""
        method, *arguments = task
        return getattr(self, method)(*arguments)

    def loss(self, params: Tree, batch: Arrays, labels: Arrays, key: jax.Array | None) -> jax.Array:
        """Masked words and, where they are learned, next sentences; with dropout where there is a key."""
        found = self.model(**batch, params=params, dropout_rng=key, train=key is not None)
        words, logits = labels["labels"], found[0]
        hidden = (words != IGNORED).astype(jnp.float32)
        losses = optax.softmax_cross_entropy(logits, jax.nn.one_hot(words, logits.shape[-1]))
        loss = (losses * hidden).sum() / hidden.sum()
        if "next_sentence_label" in labels:
            pairs = jax.nn.one_hot(labels["next_sentence_label"], 2)
            loss += optax.softmax_cross_entropy(found[1], pairs).mean()
        return loss

    def encode(self, params: Tree, batch: Arrays) -> jax.Array:
        """The states of the last layer."""
        hidden: jax.Array = self.model(**batch, params=params, train=False).last_hidden_state
        return hidden

    def check(self) -> dict[str, float]:
        """Loss and gradients without dropout, or the hidden states of real tokens: written to be compared."""
        if self.row.job == "infer":
            hidden = np.asarray(jax.jit(self.encode)(self.model.params, self.batch), np.float32)
            mask = self.batch.get("attention_mask")
            real = np.ones(hidden.shape[:2], bool) if mask is None else np.asarray(mask, bool)
            np.save(self.folder / hidden_file(self.peer), hidden[real])
            return {}
        from safetensors.numpy import save_file

        run = jax.jit(jax.value_and_grad(self.loss))
        value, gradients = run(self.model.params, self.batch, self.labels, None)
        save_file(named_as_in_pytorch(gradients), str(self.folder / gradients_file(self.peer)))
        return {"loss": float(value)}

    def prepare(self) -> dict[str, Any]:
        """Compiles; runs once."""
        import transformers

        began = time.perf_counter()
        run = self.make_encoder() if self.row.job == "infer" else self.make_step()
        jax.block_until_ready(run())
        seconds = time.perf_counter() - began
        jax.block_until_ready(run())  # a second one, as every side has
        size, repeats = size_of_matmul(on_cpu=jax.default_backend() == "cpu")
        product, matmul_flops = matmul(size, self.row.model.compute, repeats)
        product()
        self.runs = {"step": run, "matmul": product}
        forget_peak()
        return {
            "jax": jax.__version__,
            "flax": flax.__version__,
            "transformers": transformers.__version__,
            "threads": available_cores(),
            "first_seconds": seconds,
            "matmul_flops": matmul_flops,
        }

    def make_encoder(self) -> Callable[[], Any]:
        """The encoder alone."""
        encode = jax.jit(self.encode)
        return lambda: encode(self.model.params, self.batch)

    def make_step(self) -> Callable[[], Any]:
        """The training step; it takes over the parameters of the model."""
        config = OptimConfig()
        adam = config.optimizer
        assert isinstance(adam, AdamW) and config.clip_norm is not None
        optimizer = optax.chain(
            optax.clip_by_global_norm(config.clip_norm),
            optax.adamw(
                config.learning_rate / config.warmup_steps,  # that of the first step
                b1=adam.b1,
                b2=adam.b2,
                eps=adam.epsilon,
                weight_decay=config.weight_decay,
                mask=decayed,
            ),
        )
        state = TrainState.create(apply_fn=self.model.__call__, params=self.model.params, tx=optimizer)
        following = jax.random.PRNGKey(0)

        def step(
            state: TrainState, batch: Arrays, labels: Arrays, key: jax.Array
        ) -> tuple[TrainState, jax.Array, jax.Array]:
            key, following = jax.random.split(key)
            loss, gradients = jax.value_and_grad(self.loss)(state.params, batch, labels, key)
            return state.apply_gradients(grads=gradients), following, loss

        compiled = jax.jit(step, donate_argnums=0)

        def run() -> Any:
            nonlocal state, following
            state, following, loss = compiled(state, self.batch, self.labels, following)
            return state, loss

        return run

    def measure(self, what: str, times: int) -> float:
        """Seconds of one run, the mean of some that follow each other at once."""
        run, began = self.runs[what], time.perf_counter()
        for _ in range(times):
            done = run()
        jax.block_until_ready(done)
        return (time.perf_counter() - began) / times

    def memory(self) -> int:
        """Bytes at the highest."""
        return memory_above(self.libraries)


def decayed(params: Tree) -> Tree:
    """Whether a parameter is decayed: no bias and no scale of a norm is."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: name_of(path).rpartition("/")[2] not in ("bias", "scale"), params
    )


def named_as_in_pytorch(tree: Tree) -> dict[str, np.ndarray]:
    """A tree like that of the parameters by PyTorch's names, its kernels [out, in] as there."""
    found = {}
    for path, value in flat(tree).items():
        *where, last = path.split("/")
        array = np.asarray(value, np.float32)
        name = last if last == "bias" else "weight"
        found[".".join([*where, name])] = np.ascontiguousarray(array.T if last == "kernel" else array)
    return found

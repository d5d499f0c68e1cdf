"""The other side of a comparison, in a process of its own: `transformers` on PyTorch doing the identical work.

The same weights and the same corrupted batch, read from files; the class with the same heads; dropout as the config
says; loss, gradients, clipping of their global norm at 1 and AdamW as in our step, in PyTorch's fused form; attention
by `scaled_dot_product_attention`; bfloat16 by `torch.autocast`. `transformers-compiled` is the same through
`torch.compile`. Logits are made where `transformers` makes them, at every position.

What both sides compute is compared with this module in float32, uncompiled and without dropout: the relative
difference of the loss, and of all gradients together, or of the hidden states of all real tokens.

The process also measures one large product, as ours does: what PyTorch's products leave to gain is then known.
"""

import contextlib
import copy
import functools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bertjax.bench.ceiling import size_of_matmul
from bertjax.bench.machine import forget_peak, peak_memory, resident_memory
from bertjax.bench.ours import BATCH, gradients_file, hidden_file
from bertjax.bench.row import Row
from bertjax.convert.parity import quiet
from bertjax.convert.readers.safetensors_file import Safetensors
from bertjax.optim import AdamW, OptimConfig

# Relative differences that are the same computation in other words. A product in bfloat16 rounds at 2^-9.
TOLERANCE = {
    "float32": {"loss": 1e-4, "gradient": 1e-3, "hidden": 1e-4},
    "bfloat16": {"loss": 1e-2, "gradient": 5e-2, "hidden": 3e-2},
}


class Theirs:
    """Answers what the other process asks: (method, arguments)."""

    def __init__(self, row: Row, folder: str, peer: str, platform: str, threads: int) -> None:
        import torch
        import transformers

        self.kind: Any = getattr(transformers, row.peer_class)
        self.libraries = resident_memory()
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self.row, self.folder, self.peer = row, pathlib.Path(folder), peer
        self.device = torch.device("cuda" if platform == "gpu" else "cpu")
        self.batch = {
            name: torch.from_numpy(array).to(self.device)
            for name, array in np.load(self.folder / BATCH).items()
        }
        self.labels = {name: self.batch.pop(name) for name in list(self.batch) if "label" in name}
        self.model = self.load()
        self.runs: dict[str, Callable[[], Any]] = {}

    def __call__(self, task: tuple[Any, ...]) -> Any:
        """Does it."""
        method, *arguments = task
        return getattr(self, method)(*arguments)

    def load(self) -> Any:
        """The model that our side wrote: with its heads for training, the bare encoder for inference."""
        import torch

        with quiet():
            model = self.kind.from_pretrained(
                str(self.folder), dtype=torch.float32, attn_implementation="sdpa"
            )
        return model.to(self.device)

    @contextlib.contextmanager
    def precision(self, dtype: str) -> Iterator[None]:
        """Products in that type."""
        import torch

        half = dtype == "bfloat16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half):
            yield

    def loss(self, model: Any) -> Any:
        """Masked words and, where they are learned, next sentences."""
        return model(**self.batch, **self.labels).loss

    def hidden(self, model: Any, dtype: str) -> Any:
        """The states of the last layer."""
        import torch

        with torch.inference_mode(), self.precision(dtype):
            return model(**self.batch).last_hidden_state

    def prepare(self) -> dict[str, Any]:
        """Compiles if it shall; runs once."""
        import torch
        import transformers

        began, job = time.perf_counter(), self.row.job
        run: Callable[[], Any]
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision(
                "high"
            )  # as JAX by default; what is compared was computed before
        model = torch.compile(self.model) if self.peer == "transformers-compiled" else self.model
        if job == "infer":
            model.eval()
            run = functools.partial(self.hidden, model, self.row.model.dtype)
        else:
            model.train()
            run = self.make_step(model)
        run()
        self.finish()
        seconds = time.perf_counter() - began
        run()  # a second one, for what allocates or compiles after the first
        product, matmul_flops = self.make_matmul()
        product()
        self.finish()
        self.runs = {"step": run, "matmul": product}
        forget_peak()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        return {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "threads": torch.get_num_threads(),
            "first_seconds": seconds,
            "matmul_flops": matmul_flops,
        }

    def make_matmul(self) -> tuple[Callable[[], Any], float]:
        """A large product of square matrices in the row's precision, as often as ours runs it, and its operations."""
        import torch

        size, repeats = size_of_matmul(on_cpu=self.device.type == "cpu")
        dtype = getattr(torch, self.row.model.dtype)
        x = torch.full((size, size), 1.0 / size, dtype=dtype, device=self.device)
        made = torch.empty_like(x)

        def run() -> Any:
            for _ in range(repeats):
                torch.mm(x, x, out=made)
            return made

        return run, 2.0 * size**3 * repeats

    def make_step(self, model: Any) -> Callable[[], Any]:
        """The training step."""
        import torch

        config = OptimConfig()
        adam = config.optimizer
        assert isinstance(adam, AdamW) and config.clip_norm is not None
        clip = config.clip_norm
        named = list(self.model.named_parameters())
        plain = [p for name, p in named if name.endswith("bias") or "LayerNorm" in name]
        rest = [p for name, p in named if not (name.endswith("bias") or "LayerNorm" in name)]
        optimizer = torch.optim.AdamW(
            [
                {"params": rest, "weight_decay": config.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=config.learning_rate / config.warmup_steps,  # that of the first step
            betas=(adam.b1, adam.b2),
            eps=adam.epsilon,
            fused=True,
        )

        def run() -> Any:
            optimizer.zero_grad(set_to_none=True)
            with self.precision(self.row.model.dtype):
                loss = self.loss(model)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)
            optimizer.step()
            return loss

        return run

    def finish(self) -> None:
        """Waits for the device."""
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def measure(self, what: str, times: int) -> float:
        """Seconds of one run, the mean of some that follow each other at once."""
        run, began = self.runs[what], time.perf_counter()
        for _ in range(times):
            run()
        self.finish()
        return (time.perf_counter() - began) / times

    def memory(self) -> int:
        """Bytes at the highest, of the device or, on a CPU, of the process above what its libraries take."""
        import torch

        return (
            torch.cuda.max_memory_allocated()
            if self.device.type == "cuda"
            else peak_memory() - self.libraries
        )

    def check(self, others: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        """How far all sides are from this module in float32: {side: {"loss": .., "gradient": ..}}.

        Others have written their gradients and told their losses; "theirs" is this module itself.
        """
        if self.row.job == "infer":
            return self.check_hidden([*others])
        wanted, gradients = self.value_and_gradients("float32")

        def differences(loss: float, found: dict[str, Any]) -> dict[str, float]:
            return {"loss": abs(loss - wanted) / abs(wanted), "gradient": distance(found, gradients)}

        found = {side: differences(told["loss"], self.read_gradients(side)) for side, told in others.items()}
        return {**found, "theirs": differences(*self.value_and_gradients(self.row.model.dtype))}

    def check_hidden(self, others: list[str]) -> dict[str, dict[str, float]]:
        """The same of the hidden states of real tokens."""
        self.model.eval()
        mask = self.batch.get("attention_mask")

        def states(dtype: str) -> dict[str, Any]:
            hidden = self.hidden(self.model, dtype).float()
            flat = hidden.flatten(0, 1) if mask is None else hidden[mask.bool()]
            return {"hidden": flat.cpu().numpy()}

        reference = states("float32")
        written = {side: {"hidden": np.load(self.folder / hidden_file(side))} for side in others}
        written["theirs"] = states(self.row.model.dtype)
        return {side: {"hidden": distance(found, reference)} for side, found in written.items()}

    def value_and_gradients(self, dtype: str) -> tuple[float, dict[str, Any]]:
        """Loss and gradients without dropout; the model is left as it was."""
        model = copy.deepcopy(self.model).eval()
        with self.precision(dtype):
            loss = self.loss(model)
        loss.backward()
        return loss.item(), {name: p.grad.cpu().numpy() for name, p in model.named_parameters()}

    def read_gradients(self, side: str) -> dict[str, Any]:
        """Those that a side has written."""
        file = Safetensors(str(self.folder / gradients_file(side)))
        return {name: file.read(name) for name in file}


def distance(found: dict[str, Any], wanted: dict[str, Any]) -> float:
    """The norm of the difference of all arrays together, over the norm."""
    missing = wanted.keys() - found.keys()
    assert not missing, sorted(missing)
    square = sum(float(np.square(found[name] - wanted[name], dtype=np.float64).sum()) for name in wanted)
    whole = sum(float(np.square(wanted[name], dtype=np.float64).sum()) for name in wanted)
    return float((square / whole) ** 0.5)

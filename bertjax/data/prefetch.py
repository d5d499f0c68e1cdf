"""Batches made ahead of the step that needs them, in order, and how long the step waited for them.

`depth` batches are always under way or ready. A batch is a pure function of its step, so the threads need
no order among themselves and the consumer sees the same for any number of them; with none, a batch is made
when it is asked for.
"""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from jax.sharding import Mesh

from bertjax.data.loader import Batches
from bertjax.types import Batch

__all__ = ["Prefetch", "prefetch"]


class Prefetch(Iterator[tuple[int, Batch]]):
    """The iterator; close it, or use it in a `with`, when it is left before its end."""

    def __init__(
        self,
        loader: Batches,
        first_step: int,
        last_step: int,
        mesh: Mesh,
        rules: str,
        threads: int,
        depth: int,
    ) -> None:
        if threads < 0 or depth < 1:
            raise ValueError(
                f"threads={threads} and depth={depth}: there are 0 or more threads, 1 or more batches ahead"
            )
        self.waited = 0.0
        """Seconds that the consumer has spent waiting for batches so far."""
        self._make = lambda step: loader.place(step, mesh, rules)
        self._steps = iter(range(first_step, last_step))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="batches") if threads else None
        self._ahead: deque[tuple[int, Future[Batch]]] = deque()
        for _ in range(depth if self._pool else 0):
            self._submit()

    def __next__(self) -> tuple[int, Batch]:
        begin = time.perf_counter()
        try:
            if self._pool is None:
                step = next(self._steps)
                return step, self._make(step)
            if not self._ahead:
                raise StopIteration
            step, future = self._ahead.popleft()
            self._submit()
            return step, future.result()
        except BaseException:
            self.close()  # also at the regular end
            raise
        finally:
            self.waited += time.perf_counter() - begin

    def close(self) -> None:
        """Drops what was made ahead and lets the threads end; there are no batches afterwards."""
        self._steps = iter(range(0))
        self._ahead.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "Prefetch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self) -> None:
        step = next(self._steps, None)
        if step is not None:
            assert self._pool is not None
            self._ahead.append((step, self._pool.submit(self._make, step)))


def prefetch(
    loader: Batches,
    first_step: int,
    last_step: int,
    mesh: Mesh,
    rules: str,
    threads: int,
    depth: int,
) -> Prefetch:
    """(step, batch) for every step from `first_step` to before `last_step`."""
    return Prefetch(loader, first_step, last_step, mesh, rules, threads, depth)

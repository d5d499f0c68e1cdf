"""The one engine of all pipelines: records in, answers out, in their order and in bounded memory.

    1. lines are gathered into windows of `window` batches; in each
    2. records are checked and encoded: what is wrong with one is its answer, and does not stop the rest
    3. examples are sorted by length and cut into batches, each as long as the shortest of a few lengths that holds it
    4. batches are spread over the mesh; the host lays out the next one, and encodes the next window, meanwhile
    5. answers go out in the order of the lines

The lengths are halves of the longest, `length`, `length/2`, ..., whatever the data are: a program is compiled for each
of them that occurs, once. Where windows begin depends on the lines before alone, so that a run that goes on at the
start of a window computes exactly what one that was never interrupted does.
"""

import collections
import contextlib
import dataclasses
import itertools
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import numpy as np

from bertjax import sharding
from bertjax.bundle import Bundle
from bertjax.data.labelled.buckets import Buckets, place_rows
from bertjax.data.labelled.examples import UNIT, Example, LabelledExamples, Shape
from bertjax.predict.base import Answer, Item, Pipeline, tokenizer_of

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How records become batches."""

    batch: int = 32
    """Examples of one device in a step."""
    shapes: int = 4
    """Lengths that batches may have; each that occurs is compiled once."""
    window: int = 16
    """Batches that are sorted by length together and held in memory."""
    length: int | None = None
    """Tokens of a row at most; none takes the length that the model was trained with."""

    def __post_init__(self) -> None:
        """Refuses numbers that are none."""
        for name in ("batch", "shapes", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")


@dataclasses.dataclass(frozen=True)
class Line:
    """A record of the input, or what is wrong with it."""

    number: int
    record: Any = None
    error: str | None = None
    mark: Any = None
    """Of the reader: where the input goes on behind this line."""


@dataclasses.dataclass(frozen=True)
class Told:
    """What is told of a line: an answer or an error."""

    line: Line
    answer: Answer | None
    error: str | None


@dataclasses.dataclass
class _Window:
    """Lines that are computed together."""

    lines: list[Line]
    items: list[Item]
    places: list[int]  # of each item among the lines
    errors: dict[int, str]  # by place
    examples: list[Example]


class Engine:
    """A pipeline on a model, compiled as it goes."""

    def __init__(self, pipeline: Pipeline, bundle: Bundle, options: RunOptions) -> None:
        """Refuses a model that cannot be used so."""
        self.bundle, self.options = bundle, options
        self.length = row_length(bundle, options)
        self.work = pipeline.open(bundle, self.length)
        self.lengths = ladder(self.length, options.shapes)
        self.size = options.batch * bundle.replicas
        self._step = jax.jit(self.work.compute, out_shardings=sharding.replicated(bundle.mesh))

    def run(self, lines: Iterable[Line]) -> Iterator[list[Told]]:
        """The answers, window by window."""
        with contextlib.closing(_ahead(self._windows(lines))) as windows:
            for window in windows:
                yield self._answered(window)

    # ------------------------------------------------------------------------------------------ host

    def _windows(self, lines: Iterable[Line]) -> Iterator[_Window]:
        """Lines with their examples: so many that these fill a window, or as many lines."""
        enough, source = self.options.window * self.size, iter(lines)
        window = _Window([], [], [], {}, [])
        while chunk := list(itertools.islice(source, min(self.work.chunk, enough))):
            self._add(window, chunk)
            if max(len(window.examples), len(window.lines)) >= enough:
                yield window
                window = _Window([], [], [], {}, [])
        if window.lines:
            yield window

    def _add(self, window: _Window, chunk: Sequence[Line]) -> None:
        """Checks and encodes some lines."""
        first, good = len(window.lines), []
        window.lines.extend(chunk)
        for place, line in enumerate(chunk, first):
            try:
                if line.error is not None:
                    raise ValueError(line.error)
                good.append((place, self.work.check(line.number, line.record)))
            except ValueError as error:
                window.errors[place] = str(error)
        for place, item, examples in self._encoded(good, window):
            number = len(window.items)
            window.items.append(item)
            window.places.append(place)
            window.examples.extend(example._replace(record=number) for example in examples)

    def _encoded(
        self, good: Sequence[tuple[int, Item]], window: _Window
    ) -> Iterator[tuple[int, Item, list[Example]]]:
        """(place, item, examples) of all that can be encoded; what cannot is found one by one."""
        items = [item for _, item in good]
        before = [len(item.warnings) for item in items]
        try:
            examples = list(self.work.encode(items)) if items else []
        except ValueError as error:
            if len(good) == 1:
                window.errors[good[0][0]] = str(error)
                return
            for (place, item), number in zip(good, before, strict=True):
                del item.warnings[number:]
                yield from self._encoded([(place, item)], window)
            return
        parts: list[list[Example]] = [[] for _ in items]
        for example in examples:
            parts[example.record].append(example)
        for (place, item), mine in zip(good, parts, strict=True):
            yield place, item, mine

    # ------------------------------------------------------------------------------------------ device

    def _answered(self, window: _Window) -> list[Told]:
        work, answers = self.work, {}
        if window.items:
            shape = Shape(work.targets, work.group, self.bundle.vocabulary, len(window.items))
            examples = LabelledExamples(window.examples, shape)
            decoded = work.decode(window.items, examples, self._outcomes(examples))
            for place, item, answer in zip(window.places, window.items, decoded, strict=True):
                warning = {"warning": "; ".join(item.warnings)} if item.warnings else {}
                answers[place] = {**answer, **warning}
        return [
            Told(line, answers.get(place), window.errors.get(place))
            for place, line in enumerate(window.lines)
        ]

    def _outcomes(self, examples: LabelledExamples) -> Mapping[str, Sequence[np.ndarray]]:
        """What the device makes of all examples, one entry each."""
        work, bundle = self.work, self.bundle
        buckets = Buckets(examples, self._rows_for(len(examples)), self.lengths, shuffle=False)
        found: dict[str, list[Any]] = {}
        running: collections.deque[tuple[np.ndarray, Any]] = collections.deque()

        def fetch() -> None:
            chosen, outcomes = running.popleft()
            for name, values in jax.device_get(outcomes).items():
                rows = found.setdefault(name, [None] * len(examples))
                for place in np.flatnonzero(chosen >= 0).tolist():
                    rows[int(chosen[place])] = np.asarray(values[place])

        with bundle.active():
            for step in range(buckets.steps):
                batch = place_rows(buckets, work.name, step, bundle.mesh, bundle.config.mesh.rules)
                running.append((buckets.indices(step)[1], self._step(bundle.params, batch)))
                if len(running) > 1:  # the device computes one batch while the host reads the one before
                    fetch()
        while running:
            fetch()
        return found

    def _rows_for(self, number: int) -> int:
        """Examples of a batch: fewer, by powers of two, where all that there are fill less than one."""
        each = -(-max(number, 1) // self.bundle.replicas)
        return min(self.size, self.bundle.replicas * 2 ** (each - 1).bit_length())


def engine(pipeline: Pipeline, bundle: Bundle, options: RunOptions) -> Engine:
    """The engine of a pipeline on a model; kept with the model, so that nothing is compiled again."""
    known: dict[Any, Engine] = bundle.__dict__.setdefault("_engines", {})
    if (pipeline, options) not in known:
        known[pipeline, options] = Engine(pipeline, bundle, options)
    return known[pipeline, options]


def run(
    pipeline: Pipeline,
    bundle: Bundle,
    records: Iterable[Mapping[str, Any]],
    options: RunOptions | None = None,
) -> list[Answer]:
    """The answers to records in memory; what is wrong with one is an error that names its number."""
    found = []
    lines = (Line(number, record) for number, record in enumerate(records, 1))
    for window in engine(pipeline, bundle, options or RunOptions()).run(lines):
        for told in window:
            if told.answer is None:
                raise ValueError(f"record {told.line.number}: {told.error}")
            found.append(told.answer)
    return found


def row_length(bundle: Bundle, options: RunOptions) -> int:
    """Tokens of the longest rows."""
    tokenizer_of(bundle)
    if options.length is None:
        return bundle.config.data.length
    most = bundle.config.model.max_length
    if not UNIT <= options.length <= most:
        raise ValueError(f"length={options.length}: this model reads rows of {UNIT} to {most} tokens")
    return options.length


def ladder(length: int, number: int) -> tuple[int, ...]:
    """At most `number` lengths, each about half of the next, in whole units."""
    found = [length]
    while len(found) < number and found[-1] > UNIT:
        half = -(-found[-1] // 2 // UNIT) * UNIT
        if half >= found[-1]:
            break
        found.append(half)
    return tuple(reversed(found))


def _ahead(source: Iterator[T]) -> Generator[T, None, None]:
    """The same, the next one made in another thread while one is used."""
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="encode") as pool:
        coming = pool.submit(next, source, end)
        while (one := coming.result()) is not end:
            coming = pool.submit(next, source, end)
            yield one  # type: ignore[misc]

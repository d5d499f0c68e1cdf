"""Where the numbers of a run go: metrics.jsonl, TensorBoard, the terminal, and result.json at the end.

    metrics.jsonl   one JSON object a line: step, seconds, and what was logged; written line by line
    tensorboard/    the same as event files, where tensorboardX is installed
    terminal        a bar where standard error is a terminal, plain lines elsewhere
    result.json     written in one piece when the run ends, and printed as one line on standard output

A journal that is opened again at a checkpoint's step forgets what the lost steps after it wrote, and goes on
counting `seconds` from there: the files of an interrupted run read like those of one that was not.
Only process 0 writes.
"""

import contextlib
import errno
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, TextIO

import jax

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


class Journal:
    """Writes what a run says. A context manager; its methods do nothing where `primary` is false."""

    def __init__(
        self,
        workdir: str,
        total_steps: int,
        *,
        resume: int = 0,
        primary: bool | None = None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`resume` is the step to go on from. `primary` is by default whether this is process 0."""
        self._path = pathlib.Path(workdir)
        self._total = total_steps
        self._first = self._step = self._counted = resume
        self._primary = jax.process_index() == 0 if primary is None else primary
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._opened = self._started = self._window = clock()
        self._waited = 0.0
        self._paused = 0.0
        self._before = 0.0  # seconds of earlier sessions
        self._file: TextIO | None = None
        self._bar: Any = None
        self._events: Any = None
        if self._primary:
            with _writing(self._path):
                self._path.mkdir(parents=True, exist_ok=True)
                if resume < total_steps:  # an end that was reached once, and lost with its checkpoints
                    (self._path / "result.json").unlink(missing_ok=True)
                self._before = rewind(self._path / "metrics.jsonl", resume)
                self._file = (self._path / "metrics.jsonl").open("a", buffering=1, encoding="utf-8")
            self._events = self._open_events()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an error, closing may fail for the same reason (a full disk), and the first error says more.
        with contextlib.suppress(OSError) if error else _writing(self._path), contextlib.ExitStack() as stack:
            for outlet in (self._file, self._events, self._bar):
                if outlet is not None:
                    stack.callback(outlet.close)
        self._bar = self._events = self._file = None

    # ------------------------------------------------------------------------------------------ said once

    def banner(self, text: str) -> None:
        """What is about to happen."""
        self._say(text)

    def status(self, text: str) -> None:
        """What is happening now, where that takes a while: one line."""
        self._say(f"{text} ...")

    def start_clock(self) -> None:
        """Rates count from here, at the start of every part of the run; the bar appears."""
        self._started = self._window = self._clock()
        self._counted, self._waited, self._paused = self._step, 0.0, 0.0
        if self._bar is None and self._primary and self._stream.isatty():
            self._bar = self._open_bar()

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Time spent inside belongs to no rate: evaluations, checkpoints."""
        began = self._clock()
        try:
            yield
        finally:
            self._paused += self._clock() - began

    # ------------------------------------------------------------------------------------------ logged

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """One record: written to the files, and shown as a line of its own."""
        if self._primary:
            self._write(step, values)
            shown = "  ".join(f"{name} {_brief(float(value))}" for name, value in values.items())
            self._say(f"step {step}/{self._total}  {shown}")

    def log_rates(
        self,
        step: int,
        values: Mapping[str, Any],
        *,
        tokens: float,
        flops_per_token: float,
        waited: float,
    ) -> None:
        """One record of training: `values`, and the rates since the record before it.

        `tokens` were seen since then; `waited` is how long the loop has waited for data since the clock started.
        """
        if not self._primary:
            return
        now = self._clock()
        seconds = max(now - self._window - self._paused, 1e-9)
        rate = float(tokens) / seconds
        rates = {
            "steps_per_second": (step - self._step) / seconds,
            "tokens_per_second": rate,
            "flops_per_second": rate * float(flops_per_token),
            "waiting": min((float(waited) - self._waited) / seconds, 1.0),
        }
        self._write(step, {**values, **rates})
        left = (now - self._started) / max(step - self._counted, 1) * (self._total - step)
        shown = {name: value for name, value in values.items() if name == "loss" or name.endswith("accuracy")}
        parts = [
            *(f"{name} {_brief(float(value))}" for name, value in shown.items()),
            f"{scaled(rate)} tokens/s",
            f"{scaled(rates['flops_per_second'], gap=' ')}FLOP/s",
            f"ETA {duration(left)}",
        ]
        if rates["waiting"] > 0.01:
            parts.insert(-1, f"waits for data {rates['waiting']:.0%}")
        if self._bar is not None:
            self._bar.set_description_str("  ".join(parts), refresh=False)
            self._bar.update(step - self._bar.n)
            self._bar.refresh()
        else:
            self._say(f"step {step}/{self._total}  " + "  ".join(parts))
        self._step, self._window, self._waited, self._paused = step, now, float(waited), 0.0

    def finish(self, values: Mapping[str, Any], *, step: int) -> None:
        """Writes result.json and prints it as one line."""
        if not self._primary:
            return
        if self._bar is not None:  # its line ends before the result's begins
            self._bar.close()
            self._bar = None
        result = {
            "step": step,
            "seconds": round(self._seconds(), 3),
            "metrics": _plain(values),
            "command": shlex.join(sys.orig_argv),
            "versions": versions(),
            "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "processes": jax.process_count(),
        }
        path = self._path / "result.json"
        partial = path.with_suffix(".partial")
        with _writing(path):
            with partial.open("w", encoding="utf-8") as file:
                file.write(json.dumps(result, indent=2, allow_nan=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        self._stream.flush()
        print(json.dumps(result, allow_nan=False), flush=True)

    # ------------------------------------------------------------------------------------------ outlets

    def _seconds(self) -> float:
        return self._before + self._clock() - self._opened

    def _write(self, step: int, values: Mapping[str, Any]) -> None:
        record = {"step": step, "seconds": round(self._seconds(), 3), **_plain(values)}
        assert self._file is not None, "the journal is closed"
        with _writing(self._path / "metrics.jsonl"):
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
        if self._events is not None:
            for name, value in _plain(values).items():
                if value is not None:
                    self._events.add_scalar(name, value, step)

    def _say(self, text: str) -> None:
        if not self._primary:
            return
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def _open_events(self) -> Any:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            self._say("tensorboardX is not installed: metrics.jsonl is written, event files are not")
            return None
        # purge_step tells TensorBoard to forget what the lost steps of an interrupted session wrote.
        with _writing(self._path / "tensorboard"):
            return SummaryWriter(
                str(self._path / "tensorboard"),
                purge_step=self._first + 1,
                flush_secs=10,
                filename_suffix=f".{self._first}",  # a quick restart would write the same name
            )

    def _open_bar(self) -> Any:
        try:
            from tqdm import tqdm
        except ImportError:
            self._say("tqdm is not installed: progress comes as plain lines")
            return None
        form = "{percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt}  {desc}"
        return tqdm(
            total=self._total,
            initial=self._first,
            file=self._stream,
            bar_format=form,
            dynamic_ncols=True,
        )


def rewind(path: pathlib.Path, step: int) -> float:
    """Drops records after `step`, and a torn last line; the seconds of the last record kept."""
    if not path.exists():
        return 0.0
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    kept, seconds = [], 0.0
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if record["step"] <= step:
                kept.append(line)
                seconds = record["seconds"]
        except (ValueError, KeyError, TypeError):
            if number < len(lines):
                raise ValueError(
                    f"{path}:{number} is no record of a run: move the file away, or choose another --workdir"
                ) from None
    if kept and not kept[-1].endswith("\n"):  # whole, but for the end of its line
        kept[-1] += "\n"
    if kept != lines:
        partial = path.with_suffix(".partial")
        partial.write_text("".join(kept), encoding="utf-8")
        os.replace(partial, path)
    return seconds


def is_finished(workdir: str) -> bool:
    """Whether a run has written its result."""
    return (pathlib.Path(workdir) / "result.json").exists()


def inventory(workdir: str) -> str:
    """What a finished workdir holds, a line each."""
    kinds = {
        "result.json": "final metrics",
        "metrics.jsonl": "every logged number",
        "tensorboard": "the same as event files",
        "checkpoints": "parameters and optimizer",
        "config.json": "the resolved config",
        "tokenizer": "the vocabulary",
        "corpus": "the tokenised text",
        "loss.png": "the losses drawn",
        "plan.json": "what the run needs",
        "compiled": "programs, for another start",
        "profile": "the recorded trace",
    }
    there = [(pathlib.Path(workdir) / name, what) for name, what in kinds.items()]
    width = max(len(str(path)) for path, _ in there)
    return "\n".join(f"  {str(path):{width}}  {what}" for path, what in there if path.exists())


def versions() -> dict[str, str]:
    """Of Python and of the libraries that decide the numbers."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # built from source, without metadata: no reason to fail
        return "unknown"


# ---------------------------------------------------------------------------------------------- for people


def scaled(number: float, *, gap: str = "") -> str:
    """1234 -> 1.2k, with the prefix of its thousands; `gap` comes between number and prefix."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(number) < 999.5 or prefix == "P":
            break
        number /= 1000
    digits = 0 if abs(number) >= 99.5 or (not prefix and number == int(number)) else 1
    return f"{number:.{digits}f}{gap}{prefix}"


def duration(seconds: float) -> str:
    """83 -> 01:23, then 1:02:03, then 2 d 03:04."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour:02}:{minute:02}"
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute:02}:{second:02}"


def _brief(value: float) -> str:
    return scaled(value) if 1e4 <= abs(value) < math.inf else f"{value:.4g}"


def _plain(values: Mapping[str, Any]) -> dict[str, float | None]:
    """JSON numbers; what is not finite becomes null, which every reader of JSON understands."""
    numbers = {name: float(value) for name, value in values.items()}
    return {name: number if math.isfinite(number) else None for name, number in numbers.items()}


@contextlib.contextmanager
def _writing(path: pathlib.Path) -> Iterator[None]:
    """Says in one line what could not be written, and why."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        hint = "make room, or choose another --workdir" if error.errno in FULL else "choose another --workdir"
        raise ValueError(f"cannot write {path}: {reason}; {hint}") from error

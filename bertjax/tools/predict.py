"""`python -m bertjax predict KIND`: a trained model answers, for texts on the command line or for files of any size."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from bertjax import settings
from bertjax.sharding import MeshConfig

if TYPE_CHECKING:
    from bertjax.bundle import Bundle
    from bertjax.predict import Pipeline, RunOptions

USAGE = """usage: python -m bertjax predict KIND --model=FOLDER --text="..." [--text="..."]
       python -m bertjax predict KIND --model=FOLDER --input=FILE.jsonl --output=FILE.jsonl

FOLDER is the workdir of a run, an imported model, or a published one as it is. A file holds a JSON object a line; the
answers come in its order, {"line": 17, ...}, or {"line": 17, "error": "..."} for a line that is wrong, which does not
stop the rest. A run that was interrupted goes on when it is started again. KIND --help tells of the options of one.
Exit code 0: at least one line was answered; 2: none was, or the input, the model or an option is wrong."""


@dataclasses.dataclass(frozen=True)
class PredictOptions:
    """Which model, on what, and where."""

    model: str = ""
    """Workdir of a run, an imported folder, or a published one."""
    input: str | None = None
    """File with a record a line; none takes what stands on the command line."""
    output: str | None = None
    """File for the answers, a JSON object a line (for embed also a matrix, .npy); none prints them."""
    batch: int = 32
    """Examples of one device in a step."""
    shapes: int = 4
    """Lengths that batches may have; each that occurs is compiled once."""
    window: int = 16
    """Batches that are sorted by length together and held in memory."""
    length: int | None = None
    """Tokens of a row at most; none takes the length that the model was trained with."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of activations; none takes that of the model."""
    mesh: MeshConfig = MeshConfig()
    """Where the model lies."""


def main(arguments: list[str]) -> int:
    """Runs the tool."""
    from bertjax.predict import PIPELINES

    kind, rest = ("", arguments)
    if arguments and not arguments[0].startswith("-"):
        kind, rest = arguments[0], arguments[1:]
    given = list(settings.pairs(rest))
    asks = any(name == "help" for name, _ in given)
    if asks and not kind:
        print(f"{USAGE}\n\nKinds:")
        for name, pipeline in PIPELINES.items():
            print(f"  {name:12}{_about(pipeline)}")
        return 0
    if kind not in PIPELINES:
        raise ValueError(f"unknown prediction {kind!r}: {settings.suggest(kind, list(PIPELINES))}")
    if asks:
        _explain(kind, PIPELINES[kind])
        return 0
    own, common, texts = _sorted(PIPELINES[kind], given)
    pipeline = settings.override(PIPELINES[kind], own, {})
    options = settings.override(PredictOptions(), common, {})
    if not options.model:
        raise ValueError(f"--model is missing: see python -m bertjax predict {kind} --help")
    if (not texts) == (options.input is None):
        flags = " and ".join(f"--{flag}" for flag in _flags(pipeline))
        raise ValueError(f"give either --input=FILE.jsonl, or one by {flags}")
    if options.output is not None and options.input is None:
        raise ValueError("--output is for the answers to --input: those to single texts are printed")
    records = _records(pipeline, texts)

    from bertjax.bundle import load
    from bertjax.predict.run import RunOptions

    how = RunOptions(options.batch, options.shapes, options.window, options.length)
    bundle = load(options.model, mesh=options.mesh, dtype=options.dtype)
    if options.input is None:
        return _print(pipeline, bundle, records, how)
    return _over_file(kind, pipeline, bundle, options, how)


def _print(pipeline: "Pipeline", bundle: "Bundle", records: Sequence[Any], how: "RunOptions") -> int:
    """Answers to what stands on the command line, for people."""
    from bertjax.predict import run

    for record, answer in zip(records, run(pipeline, bundle, records, how), strict=True):
        print("   ".join(text for text in record.values() if isinstance(text, str)))
        for line in pipeline.lines({name: value for name, value in answer.items() if name != "warning"}):
            print(f"    {line}")
        if "warning" in answer:
            print(f"    warning: {answer['warning']}")
    return 0


def _over_file(
    kind: str, pipeline: "Pipeline", bundle: "Bundle", options: PredictOptions, how: "RunOptions"
) -> int:
    """Answers to the lines of a file, into another or on standard output."""
    from bertjax.predict.files import opened, predict_file
    from bertjax.predict.run import engine
    from bertjax.predict.sinks import Count, json_line

    assert options.input is not None
    if options.output is not None:
        count = predict_file(kind, pipeline, bundle, options.input, options.output, how)
    else:
        ready, count = engine(pipeline, bundle, how), Count()
        with opened(options.input) as source:
            for window in ready.run(source.lines()):
                count = count.add(window)
                sys.stdout.buffer.write(b"".join(map(json_line, window)))
                sys.stdout.flush()
    if not count.good:
        raise ValueError(
            f"input={options.input} has no line that could be answered: {count.first or 'it is empty'}"
        )
    bad = f", and {count.bad:,} that are wrong, the first of them {count.first}" if count.bad else ""
    print(f"predict {kind}: {count.good:,} lines answered{bad}", file=sys.stderr)
    return 0


# ---------------------------------------------------------------------------------------------- arguments


def _flags(pipeline: "Pipeline") -> dict[str, str]:
    """The options that give texts, and the column of each."""
    named = {column.option(name): name for name, column in pipeline.columns.items()}
    return {flag: name for flag, name in named.items() if flag is not None}


def _sorted(
    pipeline: "Pipeline", given: Sequence[tuple[str, str]]
) -> tuple[list[str], list[str], dict[str, list[str]]]:
    """Arguments by whose they are: the pipeline's, the tool's, and the texts by column."""
    flags = _flags(pipeline)
    mine = settings.field_types(type(pipeline))
    others = settings.field_types(PredictOptions)
    own: list[str] = []
    common: list[str] = []
    texts: dict[str, list[str]] = {}
    for name, value in given:
        if name in flags:
            texts.setdefault(flags[name], []).append(value)
        elif name in mine:
            own.append(f"{name}={value}")
        elif name.partition(".")[0] in others:
            common.append(f"{name}={value}")
        else:
            legal = [*flags, *mine, *others]
            raise ValueError(f"unknown option '--{name}': {settings.suggest(name, legal)}")
    return own, common, texts


def _records(pipeline: "Pipeline", texts: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    """Records of the texts on a command line: the first of each option, then the second of each."""
    single = {name: some for name, some in texts.items() if not pipeline.columns[name].several}
    lists = {name: some for name, some in texts.items() if pipeline.columns[name].several}
    sizes = {len(some) for some in single.values()} or {1}
    if len(sizes) > 1 or (lists and sizes != {1}):
        given = (f"--{pipeline.columns[name].option(name)} {len(some)} times" for name, some in texts.items())
        raise ValueError(f"texts do not go together ({', '.join(given)}): give each as often as the others")
    number = max(sizes) if texts else 0
    return [{**{name: some[i] for name, some in single.items()}, **lists} for i in range(number)]


def _about(pipeline: "Pipeline") -> str:
    """The first line of what a pipeline says of itself."""
    return (type(pipeline).__doc__ or "").strip().splitlines()[0]


def _explain(kind: str, pipeline: "Pipeline") -> None:
    print(f"usage: python -m bertjax predict {kind} --model=FOLDER ...\n\n{_about(pipeline)}\n")
    print("What a record has, in a file or by options:")
    for name, column in pipeline.columns.items():
        option = column.option(name)
        need = "" if column.needed else " (optional)"
        print(f"  {name}{'' if option is None else f', --{option}=...'}{need}\n        {column.about}")
    for title, options in (("Options of this kind", pipeline), ("Options of all kinds", PredictOptions())):
        print(f"\n{title}:")
        for path, value, doc in settings.describe(options, {}):
            print(f"  --{path}={value}\n        {doc}")


def print_filled(text: str, answer: Mapping[str, Any]) -> None:
    """A text and what would fill its gaps."""
    from bertjax.predict import PIPELINES

    print(text)
    for line in PIPELINES["fill-mask"].lines(dict(answer)):
        print(f"    {line}")

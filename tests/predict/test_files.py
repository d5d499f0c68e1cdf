"""Files: answers in order, one bad line among good ones, and a run that was killed leaves no trace in its output."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import bertjax
from bertjax.__main__ import main
from bertjax.bundle import Bundle
from bertjax.predict import Embed, FillMask, RunOptions, embed, fill_mask
from bertjax.predict import files as files_module
from bertjax.predict.files import predict_file
from bertjax.predict.sinks import Sink
from bertjax.sharding import MeshConfig
from tests.convert.broken import refused
from tests.convert.models import VOCABULARY, write_published
from tests.runs import Killed

pytestmark = pytest.mark.usefixtures("quick_compiles")
FEW = RunOptions(batch=3, shapes=2, window=2)  # windows of six
LETTERS = "abcdefghijklmnop"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_published(tmp_path_factory.mktemp("files") / "model", vocabulary=VOCABULARY)


@pytest.fixture(scope="module")
def bundle(folder: str) -> Bundle:
    return bertjax.load(folder, mesh=MeshConfig(data=1))


def text_of(number: int) -> str:
    """Of another length than its neighbours."""
    words = " ".join(LETTERS[(number + i) % 16] for i in range(1 + number * 7 % 11))
    return f"{words} [MASK]"


def write(path: pathlib.Path, number: int = 23, *, bad: bool = True) -> str:
    """Records, and in between lines that are none."""
    lines = [json.dumps({"text": text_of(i), "id": f"r{i}", "other": [i]}).encode() for i in range(number)]
    if bad:
        lines[3:3] = [b"", b"   ", b'{"text": "no gap"}']
        lines[9:9] = [b'{"text": "a [MASK]', b'"\xff"', b"[1, 2]", b'{"text": null}', b'{"tex": "a"}', b"{}"]
        lines[12:12] = [b'{"text": "\\ud83d [MASK]", "id": "\\ud83d"}']
    path.write_bytes(b"\n".join(lines))
    return str(path)


def read(path: pathlib.Path | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run from beginning to end."""
    path = tmp_path_factory.mktemp("whole")
    write(path / "in.jsonl")
    count = predict_file(
        "fill-mask", FillMask(), bundle, str(path / "in.jsonl"), str(path / "out.jsonl"), FEW
    )
    assert (count.good, count.bad) == (23, 8) and count.first is not None
    assert count.first.startswith("line 6: nothing to fill in 'no gap'")
    return path


def test_order_and_bad_lines(bundle: Bundle, whole: pathlib.Path) -> None:
    given = (whole / "in.jsonl").read_bytes().split(b"\n")
    found = read(whole / "out.jsonl")
    assert [one["line"] for one in found] == [n for n, line in enumerate(given, 1) if line.strip()]
    good = [one for one in found if "error" not in one]
    assert [one["id"] for one in good] == [f"r{i}" for i in range(23)]
    wanted = fill_mask(bundle, [text_of(i) for i in range(23)], options=RunOptions(batch=1, shapes=1))
    for one, other in zip(good, wanted, strict=True):
        assert one["text"] == other["text"]
        values = [[c["probability"] for m in each["masks"] for c in m["candidates"]] for each in (one, other)]
        np.testing.assert_allclose(*values, atol=1e-6)
    errors = [one["error"] for one in found if "error" in one]
    assert [message.partition(":")[0] for message in errors] == [
        "nothing to fill in 'no gap'",
        "the line is no JSON (Unterminated string starting at character 10)",
        "byte 2 of the line is not UTF-8",
        "a record is an object with 'text', not list [1, 2]",
        "'text' holds half of a character",
        "'text' holds NoneType None and not text",
        "the record has no 'text'",
        "the record has no 'text'",
    ]
    assert {one.get("id") for one in found if "error" in one} == {None, "\ud83d"}


@pytest.mark.parametrize("window, when", [(0, "before"), (1, "between"), (2, "between"), (3, "after")])
def test_a_run_that_is_killed_leaves_no_trace(
    bundle: Bundle, whole: pathlib.Path, tmp_path: pathlib.Path, window: int, when: str
) -> None:
    """Killed before a window is written, when only a part of it is, and when it is but was not noted."""
    output, turn = tmp_path / "out.jsonl", [0]
    write_window, tell = Sink.write, Sink._tell

    def write_or_die(self: Sink, answers: Any) -> None:
        if turn[0] == window and when == "before":
            raise Killed
        if turn[0] == window and when == "between":
            assert self._file is not None
            self._file.write(b"".join(map(self.encoded, answers))[:-7])
            self._file.flush()
            raise Killed
        turn[0] += 1
        write_window(self, answers)

    def tell_or_die(self: Sink) -> None:
        if turn[0] == window + 1 and when == "after":
            raise Killed
        tell(self)

    arguments = ("fill-mask", FillMask(), bundle, str(whole / "in.jsonl"), str(output), FEW)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sink, "write", write_or_die)
        patch.setattr(Sink, "_tell", tell_or_die)
        with pytest.raises(Killed):
            predict_file(*arguments)
    begun = output.read_bytes() if output.exists() else b""
    assert begun != (whole / "out.jsonl").read_bytes()
    count = predict_file(*arguments)
    assert (count.good, count.bad) == (23, 8)
    assert output.read_bytes() == (whole / "out.jsonl").read_bytes()


def test_a_finished_file_is_not_made_again(bundle: Bundle, whole: pathlib.Path) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("computed again")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files_module.Input, "lines", never)
        arguments = ("fill-mask", FillMask(), bundle, str(whole / "in.jsonl"), str(whole / "out.jsonl"), FEW)
        assert predict_file(*arguments).good == 23


def test_an_input_that_has_grown(bundle: Bundle, tmp_path: pathlib.Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    arguments = ("fill-mask", FillMask(), bundle, str(source), str(output), FEW)
    write(source, 6, bad=False)
    source.write_bytes(source.read_bytes() + b"\n")
    predict_file(*arguments)
    first = output.read_bytes()
    source.write_bytes(source.read_bytes() + b'{"text": "x [MASK]"}')
    assert predict_file(*arguments).good == 7
    assert output.read_bytes().startswith(first) and read(output)[-1]["line"] == 7


def change_input(source: pathlib.Path, output: pathlib.Path) -> None:
    source.write_bytes(source.read_bytes().replace(b"r1", b"r9"))


def lose_note(source: pathlib.Path, output: pathlib.Path) -> None:
    pathlib.Path(f"{output}.progress").unlink()


def break_note(source: pathlib.Path, output: pathlib.Path) -> None:
    pathlib.Path(f"{output}.progress").write_text("{}")


def cut_output(source: pathlib.Path, output: pathlib.Path) -> None:
    output.write_bytes(output.read_bytes()[:-1])


@pytest.mark.parametrize(
    "harm, message",
    [
        (change_input, "is of another input, whose first 5 lines were others"),
        (lose_note, "out.jsonl exists without"),
        (break_note, "out.jsonl.progress cannot be read"),
        (cut_output, "has lost some of what"),
    ],
)
def test_what_cannot_be_gone_on_with(
    bundle: Bundle, tmp_path: pathlib.Path, harm: Callable[..., None], message: str
) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    arguments = ("fill-mask", FillMask(), bundle, write(source, 5, bad=False), str(output), FEW)
    predict_file(*arguments)
    harm(source, output)
    with refused(message):
        predict_file(*arguments)


def test_another_model_or_other_options(bundle: Bundle, whole: pathlib.Path, tmp_path: pathlib.Path) -> None:
    source, output = str(whole / "in.jsonl"), str(whole / "out.jsonl")
    with refused("out.jsonl was made otherwise (options.top: 5 there, 2 here)"):
        predict_file("fill-mask", FillMask(top=2), bundle, source, output, FEW)
    with refused("was made otherwise (length: 18 there, 16 here)"):
        predict_file("fill-mask", FillMask(), bundle, source, output, RunOptions(length=16))
    folder = write_published(tmp_path / "other", vocabulary=VOCABULARY, edit=_nudge)
    with refused("was made otherwise (model: "):
        predict_file(
            "fill-mask", FillMask(), bertjax.load(folder, mesh=MeshConfig(data=1)), source, output, FEW
        )


def _nudge(tensors: dict[str, np.ndarray]) -> None:
    tensors["bert.embeddings.LayerNorm.bias"][0] += 1


def test_a_matrix(bundle: Bundle, tmp_path: pathlib.Path) -> None:
    """A row for each line, nan for a bad one; the same when it was interrupted."""
    source, output = tmp_path / "in.jsonl", tmp_path / "out.npy"
    pipeline = Embed(pooling="mean")
    write(source)
    arguments = ("embed", pipeline, bundle, str(source))
    predict_file(*arguments, str(output), FEW)
    found, lines = np.load(output), [line for line in source.read_bytes().split(b"\n") if line.strip()]
    assert found.shape == (31, 24) and found.dtype == np.float32
    predict_file(*arguments, str(tmp_path / "out.jsonl"), FEW)
    for line, row, one in zip(lines, found, read(tmp_path / "out.jsonl"), strict=True):
        if "error" in one:
            assert np.isnan(row).all(), line
        else:
            np.testing.assert_array_equal(np.array(one["embedding"], np.float32), row)
    wanted = embed(bundle, [text_of(i) for i in range(23)], pooling="mean", options=FEW)
    good = [place for place, row in enumerate(found) if np.isfinite(row).all()]
    np.testing.assert_allclose(found[good][:3], wanted[:3], atol=1e-6)
    assert sorted(path.name for path in tmp_path.glob("out.npy*")) == ["out.npy", "out.npy.progress"]
    assert predict_file(*arguments, str(output), FEW).good == 24
    other = tmp_path / "again.npy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sink, "close", _die)
        with pytest.raises(Killed):
            predict_file(*arguments, str(other), FEW)
    predict_file(*arguments, str(other), FEW)
    assert other.read_bytes() == output.read_bytes()
    source.write_bytes(source.read_bytes() + b"\n{}")
    with refused("is finished and its input has grown"):
        predict_file(*arguments, str(output), FEW)
    with refused("only embed gives a matrix"):
        predict_file("fill-mask", FillMask(), bundle, str(source), str(output), FEW)


def _die(self: Sink) -> None:
    raise Killed


def test_long_lines_are_refused(
    bundle: Bundle, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_module, "LONGEST", 100)
    monkeypatch.setattr(files_module, "PIECE", 64)
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "a [MASK]"}\n{"text": "' + "a " * 200 + '[MASK]"}\n{"text": "b [MASK]"}\n')
    predict_file("fill-mask", FillMask(), bundle, str(source), str(output), FEW)
    found = read(output)
    assert [one["line"] for one in found] == [1, 2, 3] and found[1][
        "error"
    ] == "the line has more than 100 bytes"


# ---------------------------------------------------------------------------------------------- command line


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["predict", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_texts_on_the_command_line(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(
        capsys,
        "fill-mask",
        f"--model={folder}",
        "--text=a [MASK]",
        "--text",
        "b, [MASK] c",
        "--top=2",
        "--batch=1",
    )
    lines = out.splitlines()
    assert code == 0 and [lines[0], lines[2]] == ["a [MASK]", "b, [MASK] c"] and len(lines) == 4
    assert len(lines[1].split()) == 4


def test_files_on_the_command_line(
    folder: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write(source, 5)
    options = (
        f"--model={folder}",
        f"--input={source}",
        "--mesh.data=1",
        "--batch=3",
        "--window=2",
        "--shapes=2",
    )
    code, out, err = command(capsys, "perplexity", *options, f"--output={output}")
    assert code == 0 and out == "" and "predict perplexity: 6 lines answered, and 7 that are wrong" in err
    code, out, _ = command(capsys, "perplexity", *options)
    assert code == 0 and out == output.read_text()


WRONG: list[tuple[tuple[str, ...], str]] = [
    (("guess",), "unknown prediction 'guess': choose from fill-mask,"),
    (("fill-mask",), "--model is missing"),
    (("fill-mask", "--model=x"), "give either --input=FILE.jsonl, or one by --text"),
    (("fill-mask", "--model=x", "--text=a", "--input=b"), "give either --input=FILE.jsonl, or one by --text"),
    (("fill-mask", "--model=x", "--text=a", "--output=b"), "--output is for the answers to --input"),
    (("fill-mask", "--model=x", "--text=a", "--tpo=3"), "unknown option '--tpo': did you mean 'top'?"),
    (("fill-mask", "--model=x", "--text=a", "--top=0"), "top=0 must be at least 1"),
    (("fill-mask", "--model=x", "--text=a", "--batch=0"), "batch=0 must be at least 1"),
    (
        ("similar", "--model=x", "--text=a", "--text=b", "--pair=c"),
        "texts do not go together (--text 2 times, --pair 1",
    ),
    (("rerank", "--model=x", "--query=a", "--query=b", "--candidate=c"), "texts do not go together"),
]


@pytest.mark.parametrize("arguments, message", WRONG)
def test_wrong_commands(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = command(capsys, *arguments)
    assert code == 2 and out == "" and message in err and err.count("\n") == 1


def test_models_and_files_that_cannot_be_used(
    folder: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = command(capsys, "tag", f"--model={folder}", "--text=a")
    assert (
        code == 2 and "tag needs a head for tag and this model has mlm, nsp: train it with tasks=tag" in err
    )
    code, _, err = command(capsys, "embed", f"--model={folder}", "--text=a")
    assert code == 2 and "embed needs a head for embed and this model has mlm, nsp: set pooling=mean" in err
    code, _, err = command(capsys, "fill-mask", f"--model={folder}", f"--input={tmp_path / 'none'}")
    assert code == 2 and "none cannot be read (No such file or directory)" in err
    (tmp_path / "bad").write_text("{}\n[]\n")
    code, _, err = command(capsys, "fill-mask", f"--model={folder}", f"--input={tmp_path / 'bad'}")
    assert (
        code == 2
        and "has no line that could be answered: line 1: the record has no 'text': it is empty" in err
    )


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(capsys, "--help")
    assert code == 0 and "Exit code 0" in out and "perplexity" in out
    code, out, _ = command(capsys, "rerank", "--help")
    assert code == 0 and "--candidate=..." in out and "--label=None" in out and "--mesh.data=-1" in out

"""The price list: what is counted, fitted, made equal and written."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from bertjax.__main__ import main
from bertjax.attention import ATTENTIONS, variant_of
from bertjax.attention.bigbird import BigBird
from bertjax.attention.hybrid import Hybrid
from bertjax.bench import attention as bench
from bertjax.bench import known
from bertjax.bench.attention import FORMS, AttentionBench, choose, run, stamp
from bertjax.bench.block import Price, Rows, Timing, price, trace
from bertjax.bench.equal import match
from bertjax.bench.growth import exponent
from bertjax.bench.table import number, spread, summary
from bertjax.layers.config import EncoderConfig, Full, Learned
from bertjax.layers.position import Alibi, Relative
from bertjax.models.cost import count_products, flops_per_token, programs_in
from tests.attention.battery import refusal

SMALL = EncoderConfig(layers=4, width=24, heads=4, feedforward=40, dropout=0.0, attention_dropout=0.0)
NOT_RUN = Timing(repeats=1, clock="wall", memory=0.0)


def test_operations_of_a_full_block_are_the_formula() -> None:
    per_layer = flops_per_token(SMALL, attended=50.0, predicted=0.0) / SMALL.layers
    for rows in (Rows(50), Rows(50, tokens=100), Rows(50, tokens=9), Rows(50, documents=3)):
        found = price(SMALL, rows, None)
        assert found.flops == pytest.approx(50 * per_layer)
        assert found.bytes is None and found.seconds is None


def test_a_batch_has_as_many_tokens_at_every_length() -> None:
    assert [Rows(n, tokens=64).number for n in (1, 8, 48, 64, 100)] == [64, 8, 1, 1, 1]
    few, many = (price(SMALL, Rows(16, tokens=n), NOT_RUN).bytes for n in (16, 512))
    assert few and many and 0.5 < many / few < 1.0  # gradients of parameters are shared by all rows


def test_layers_that_differ_are_averaged() -> None:
    config = dataclasses.replace(SMALL, attention=Hybrid(number=1))
    full, fourier = (
        price(dataclasses.replace(SMALL, attention=one), Rows(16), None)
        for one in (Full(), config.attention.body)
    )
    mixed = price(config, Rows(16), None)
    assert mixed.parameters == pytest.approx(full.parameters / 4 + fourier.parameters * 3 / 4)
    assert mixed.flops == pytest.approx(full.flops / 4 + fourier.flops * 3 / 4)


def test_the_exponent_is_that_of_a_power_law() -> None:
    assert exponent({n: 3e-6 * n**1.7 for n in (1, 1024, 2048, 8192)}, 1024, 8192) == pytest.approx(1.7)
    kinked = {n: n**2.0 for n in (16, 32)} | {n: n * 32.0 for n in (64, 128, 256)}
    assert exponent(kinked, 64, 256) == pytest.approx(1.0)
    assert exponent({1024: 1.0, 2048: None, 4096: None}, 1024, 8192) is None


LINEAR = [name for name, variant in ATTENTIONS.items() if variant.linear]


def arrays(program: Any) -> Iterator[int]:
    """The size of every array that a program makes, and how often it makes it does not matter."""
    for step in program.eqns:
        yield from (v.aval.size for v in step.outvars)
        for inner in programs_in(tuple(step.params.values())):
            yield from arrays(inner)


def growing(name: str) -> tuple[EncoderConfig, int]:
    """A small block with dropout, and documents that its rows are packed with where it can keep them apart."""
    known = {name: variant.options for name, variant in ATTENTIONS.items()} | FORMS
    options = known[name.split()[0]]
    if isinstance(options, BigBird):
        options = dataclasses.replace(options, plans=1)
    config = EncoderConfig(width=16, heads=2, attention=options, dropout=0.1, attention_dropout=0.1)
    return config, 3 if variant_of(options).segments and "unpacked" not in name else 1


CASES = [*LINEAR, "gated_unit_chunked", "linear unpacked", "window unpacked", "full"]


@pytest.mark.parametrize("name", CASES)
def test_no_array_grows_faster_than_the_row(name: str) -> None:
    """Forward and backward, packed and with dropout: neither the largest array, nor all of them, nor the operations."""
    config, documents = growing(name)
    programs = {
        length: trace(
            dataclasses.replace(config, max_length=length),
            config.attention,
            Rows(length, documents=documents),
        )
        for length in (1024, 8192)
    }
    for what in (lambda program: max(arrays(program)), lambda program: sum(arrays(program)), count_products):
        found = exponent({length: what(program) for length, program in programs.items()}, 1024, 8192)
        assert found is not None and (found > 1.8 if name == "full" else 0.5 < found < 1.2), found


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_compiled_memory_grows_with_the_row(name: str) -> None:
    config, documents = growing(name)
    prices = {length: price(config, Rows(length, documents=documents), NOT_RUN) for length in (1024, 8192)}
    assert all(one.seconds is None for one in prices.values())
    found = exponent({length: one.bytes for length, one in prices.items()}, 1024, 8192)
    assert found is not None and (found > 1.8 if name == "full" else 0.8 < found < 1.2), found


@pytest.mark.parametrize(
    ("name", "by"),
    [
        ("linformer", "parameters"),
        ("linformer", "flops"),
        ("fourier", "parameters"),
        ("local_global", "flops"),
        ("gated_unit", "parameters"),
    ],
)
def test_blocks_are_made_equal(name: str, by: str) -> None:
    base = EncoderConfig(width=192, heads=4, activation="geglu")
    config = dataclasses.replace(base, attention=ATTENTIONS[name].options)
    equal = match(config, base, by, 512)  # type: ignore[arg-type]
    ours, theirs, before = (getattr(price(one, Rows(512), None), by) for one in (equal, base, config))
    assert abs(before / theirs - 1) > 0.02
    assert abs(ours / theirs - 1) < 0.02
    assert match(config, base, "none", 512) == config


def test_what_cannot_be_made_equal_is_refused() -> None:
    base = EncoderConfig(width=96, heads=4, feedforward=8)
    config = dataclasses.replace(base, attention=ATTENTIONS["longformer"].options)
    message = refusal(lambda: match(config, base, "parameters", 256))
    assert "longformer alone has more parameters" in message and "--variants" in message


def test_a_list_is_measured_and_written(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "bench",
        "attention",
        "--variants=full,feedforward_only",
        "--lengths=8,32",
        "--fit_from=8",
    ]
    model = ["--model.width=24", "--model.heads=4", "--repeats=1", "--equal=parameters", f"--out={tmp_path}"]
    assert main([*arguments, *model]) == 0
    shown = capsys.readouterr().out
    assert "full" in shown and "attention.md" in shown
    written = json.loads((tmp_path / "attention.json").read_text())
    assert written["about"]["equal"] == "parameters" and written["about"]["width"] == 24
    full, alone = written["variants"]
    assert (full["name"], alone["name"]) == ("full", "feedforward_only")
    assert (
        full["feedforward"] == 96 and alone["feedforward"] == 144
    )  # 4 D² more parameters are 2 D more width
    assert abs(full["parameters"] / alone["parameters"] - 1) < 0.02
    for line in (full, alone):
        assert set(line["prices"]) == {"8", "32"}
        assert all(value > 0 for one in line["prices"].values() for value in one.values())
        assert set(line["growth"]) == {"seconds", "bytes", "flops"} and line["growth"]["flops"] > 0.9
    table = (tmp_path / "attention.md").read_text()
    assert "## Memory (MB)" in table and "| feedforward_only |" in table
    assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")


def test_a_list_goes_on_where_it_stopped(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured before is kept, also of variants that are not asked for again; what has changed is not."""
    done: list[str] = []

    def count(name: str, config: EncoderConfig, options: AttentionBench) -> bench.Line:
        done.append(name)
        prices = {length: price(config, Rows(length), None) for length in options.lengths}
        prices = {length: dataclasses.replace(one, bytes=1e3, seconds=0.1) for length, one in prices.items()}
        return bench.Line(
            name, 40, 1.0, prices, {"seconds": None, "bytes": None, "flops": 1.0}, stamp(config)
        )

    def names() -> list[str]:
        return [line["name"] for line in json.loads((tmp_path / "attention.json").read_text())["variants"]]

    monkeypatch.setattr(bench, "measure", count)
    options = AttentionBench(model=SMALL, variants=("full", "linear"), lengths=(8,), out=str(tmp_path))
    before = run(options)
    assert run(options) == before and done == ["full", "linear"]
    run(dataclasses.replace(options, variants=("linear", "fourier")))
    assert done == ["full", "linear", "fourier"] and sorted(names()) == ["fourier", "full", "linear"]
    wider = dataclasses.replace(SMALL, attention=Full("reference"))
    run(dataclasses.replace(options, variants=("full",), model=wider))
    assert done[3:] == ["full"] and sorted(names()) == ["fourier", "full", "linear"]

    assert "holds for other" not in capsys.readouterr().out
    run(dataclasses.replace(options, repeats=2))
    assert done[4:] == names() == ["full", "linear"]
    assert f"{tmp_path}/attention.json holds for other repeats: it is" in capsys.readouterr().out
    monkeypatch.setattr(known, "CODE", ("attention",))
    run(dataclasses.replace(options, repeats=2))
    assert len(done) == 8 and "holds for other code: it is" in capsys.readouterr().out
    (tmp_path / "attention.json").write_text("{}")
    assert "is no price list" in refusal(lambda: run(options))


def test_the_code_that_counts_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {known.digest_of_code()}
    for part in known.CODE:
        monkeypatch.setattr(known, "CODE", (part,))
        found.add(known.digest_of_code())
    assert len(found) == 1 + 5


def test_what_needs_too_much_memory_is_not_run(tmp_path: pathlib.Path) -> None:
    options = AttentionBench(
        model=SMALL, variants=("full",), lengths=(16, 32), memory=1e-9, fit_from=16, out=str(tmp_path)
    )
    line = run(options)[0]
    assert line.growth["seconds"] is None and line.growth["bytes"] is not None
    assert all(one.seconds is None and one.bytes for one in line.prices.values())
    assert "–" in (tmp_path / "attention.md").read_text()


def test_one_that_cannot_be_built_does_not_end_the_list(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in ATTENTIONS if name not in ("full", "grouped_query")]:
        monkeypatch.delitem(ATTENTIONS, name)
    monkeypatch.setattr(bench, "FORMS", {})
    two_heads = dataclasses.replace(SMALL, heads=2)
    options = AttentionBench(model=two_heads, lengths=(8,), memory=1e-9, out=str(tmp_path))
    assert [line.name for line in run(options)] == ["full"]
    assert "left out: model.attention.groups=4 does not divide model.heads=2" in capsys.readouterr().out
    with pytest.raises(ValueError, match="does not divide"):
        run(dataclasses.replace(options, variants=("grouped_query",)))


def test_what_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    everything = choose(AttentionBench())
    assert set(everything) == {*ATTENTIONS, *FORMS}
    assert everything["disentangled"].position == Relative() and everything["full"].position == Learned()
    own = ATTENTIONS["linformer"].options
    changed = dataclasses.replace(own, rank=7)  # type: ignore[call-arg]
    model = dataclasses.replace(SMALL, attention=changed)
    found = choose(AttentionBench(model=model, variants=("full", "linformer")))
    assert found == {"full": dataclasses.replace(model, attention=Full()), "linformer": model}
    assert capsys.readouterr().out == ""


def test_what_cannot_work_is_left_out_or_refused(capsys: pytest.CaptureFixture[str]) -> None:
    packed = choose(AttentionBench(documents=4))
    assert "window" in packed and not {"linformer", "fourier", "nystroem"} & set(packed)
    assert "left out: model.attention=fourier cannot keep packed documents apart" in capsys.readouterr().out
    biased = AttentionBench(model=dataclasses.replace(SMALL, position=Alibi()), variants=("full", "linear"))
    assert "model.attention=linear has no scores" in refusal(lambda: choose(biased))
    scores = price(dataclasses.replace(biased.model, attention=Full()), Rows(16), NOT_RUN)
    assert scores.bytes is not None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"variants": ("linformr",)}, "unknown variant 'linformr': did you mean 'linformer'?"),
        ({"lengths": ()}, "lengths=: one length or more"),
        ({"repeats": 0}, "repeats=0 must be at least 1"),
        ({"documents": 200}, "documents=200: at most one a token of the shortest row, 128"),
        ({"fit_from": 512, "fit_to": 512}, "fit_from=512 must be below fit_to=512"),
    ],
)
def test_what_measures_nothing_is_refused(wrong: dict[str, Any], message: str) -> None:
    assert message in refusal(lambda: choose(AttentionBench(**wrong)))


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert main(["bench", "attention", f"--out={file}", "--variants=full"]) == 2
    assert "cannot be a folder" in capsys.readouterr().err
    assert main(["bench", "attentoin"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["bench", "--help"]) == 0
    assert "\n  attention " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["bench", "attention", "--help"])
    assert "--equal_length" in capsys.readouterr().out


def test_a_summary_is_relative_to_full_attention() -> None:
    def line(name: str, seconds: float | None, growth: float) -> bench.Line:
        prices = {n: Price(7.0, 1.0, 1.0, None if seconds is None else n * seconds) for n in (512, 8192)}
        return bench.Line(name, 40, 7.0, prices, {"seconds": growth, "bytes": growth, "flops": 1.0}, "")

    lines = [line("full", 2.0, 1.9), line("slow", None, 2.0), line("fast", 0.5, 1.0)]
    rows = summary({"equal_length": 512, "fit_to": 8192}, lines).splitlines()
    assert (
        rows[0]
        == "| variant | parameters | time, 512 tokens | time, 8192 tokens | time grows | memory grows |"
    )
    assert rows[2:] == [
        "| fast | 7 | 0.25 | 0.25 | 1.00 | 1.00 |",
        "| full | 7 | 1.00 | 1.00 | 1.90 | 1.90 |",
        "| slow | 7 | – | – | 2.00 | 2.00 |",
    ]
    alone = summary({"equal_length": 512, "fit_to": 8192}, lines[2:]).splitlines()
    assert alone[0] == "| variant | parameters | time grows | memory grows |"


def test_numbers_have_three_digits() -> None:
    assert [number(value) for value in (0.0123456, 1.5, 12.345, 1234.5)] == ["0.0123", "1.5", "12.3", "1234"]


def test_labels_do_not_overlap() -> None:
    assert spread([0.1, 0.5, 0.9], 0.1) == [0.1, 0.5, 0.9]
    crowded = spread([0.0, 0.01, 0.5, 0.5, 0.5, 0.98, 1.0, 1.0], 0.1)
    assert crowded == pytest.approx([0.0, 0.1, 0.4, 0.5, 0.6, 0.8, 0.9, 1.0])
    assert spread([0.5] * 11, 0.1) == pytest.approx([i / 10 for i in range(11)])

import numpy as np
import pytest
from texts import Text, random_text

from bertjax.data import mixture
from bertjax.data.formats import FORMATS
from bertjax.data.loader import Loader
from bertjax.data.mixture import Mixture, shares
from bertjax.data.synthetic import SyntheticCorpus

PERIOD = 256


@pytest.fixture(autouse=True)
def short_periods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture, "_PERIOD", PERIOD)
    mixture._period.cache_clear()


def sources(*documents: int, name: str = "padded", vocab: int = 101) -> dict[str, object]:
    made = {}
    for number, count in enumerate(documents):
        made[f"s{number}"] = FORMATS[name].examples(SyntheticCorpus(count, vocab, seed=number), 64, 0)
    return made


def mix_of(*documents: int, **options: object) -> Mixture:
    return Mixture(sources(*documents), **options)  # type: ignore[arg-type]


def stream(mixed: Mixture, rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source, epoch and index in its source of the first rows."""
    epochs, ids = mixed.order(np.arange(rows), seed)
    which = np.searchsorted(mixed.bounds, ids, side="right") - 1
    return which, epochs, ids - mixed.bounds[which]


def test_shares_follow_weights_and_temperature() -> None:
    tokens = {"a": 100, "b": 900}
    assert shares(tokens, None, 1.0) == pytest.approx({"a": 0.1, "b": 0.9})
    assert shares(tokens, None, 2.0) == pytest.approx({"a": 0.25, "b": 0.75})
    assert shares(tokens, None, 1e9) == pytest.approx({"a": 0.5, "b": 0.5})
    assert shares(tokens, None, 0.5) == pytest.approx({"a": 1 / 82, "b": 81 / 82})
    assert shares(tokens, {"a": 3, "b": 1}, 1.0) == pytest.approx({"a": 0.75, "b": 0.25})
    assert shares({"a": 1, "b": 10**30}, None, 0.01) == pytest.approx({"a": 0.0, "b": 1.0})  # no overflow


def test_every_period_keeps_the_shares_exactly() -> None:
    mixed = mix_of(30, 60, 10, weights={"s0": 5.0, "s1": 2.0, "s2": 1.0})
    which, _, _ = stream(mixed, 3 * PERIOD)
    counts = [np.bincount(part, minlength=3).tolist() for part in np.split(which, 3)]
    assert counts == [[160, 64, 32]] * 3
    first, second = which[:PERIOD], which[PERIOD : 2 * PERIOD]
    assert not np.array_equal(first, second)
    # Mixed throughout, not one source after the other: the first half has about half of each.
    assert abs(np.bincount(first[: PERIOD // 2], minlength=3) - [80, 32, 16]).max() < 25


@pytest.mark.parametrize("seed", [0, 3])
def test_each_source_goes_through_its_examples_at_its_own_pace(seed: int) -> None:
    mixed = mix_of(30, 7, weights={"s0": 1.0, "s1": 3.0})
    which, epochs, indices = stream(mixed, 8 * PERIOD, seed)
    for number, source in enumerate(mixed.sources):
        here = which == number
        size, turns = len(source), int(here.sum())
        seen = np.zeros((turns // size + 1, size), int)
        np.add.at(seen, (epochs[here], indices[here]), 1)
        assert (seen[: turns // size] == 1).all() and seen[turns // size].max(initial=0) <= 1
        assert seen.sum() == turns
        assert (np.diff(epochs[here]) >= 0).all()
    assert epochs[which == 1].max() > 3 * epochs[which == 0].max()


def test_a_row_of_a_mixture_is_the_row_of_its_source() -> None:
    mixed = mix_of(20, 30)
    which, epochs, indices = stream(mixed, 40)
    rows = Loader(mixed, 40, seed=0).rows(0, 0, 40)
    assert set(which) == {0, 1}
    for row in range(40):
        expected = mixed.sources[which[row]].example(int(epochs[row]), int(indices[row]))
        for key in ("tokens", "mask", "types", "positions", "segments", "epoch"):
            assert np.array_equal(rows[key][row], expected[key])
        assert rows["example_id"][row] == mixed.bounds[which[row]] + indices[row]


def test_rows_do_not_depend_on_what_else_is_asked_for() -> None:
    mixed = mix_of(20, 30)
    epochs, ids = mixed.order(np.arange(3 * PERIOD), 1)
    for row in (0, 17, PERIOD - 1, PERIOD, 2 * PERIOD + 5):
        assert [array[0] for array in mixed.order(np.array([row]), 1)] == [epochs[row], ids[row]]
    assert not np.array_equal(mixed.order(np.arange(3 * PERIOD), 2)[1], ids)


def test_an_evaluation_of_a_mixture_goes_through_all_sources() -> None:
    mixed = mix_of(20, 30)
    loader = Loader(mixed, 16, seed=0, shuffle=False)
    ids = np.concatenate([loader.rows(step, 0, 16)["example_id"] for step in range(loader.steps)])
    assert sorted(ids[ids >= 0].tolist()) == list(range(len(mixed)))
    quarter = ids[: len(mixed) // 4] < mixed.bounds[1]
    assert 0.2 < quarter.mean() < 0.6  # also where it ends early
    assert len(mixed) == sum(len(source) for source in mixed.sources)


@pytest.mark.parametrize("rows", [0, 1, 99, PERIOD, 3 * PERIOD + 150])
def test_what_was_seen_is_counted_exactly(rows: int) -> None:
    mixed = mix_of(20, 50, temperature=3.0)
    which, epochs, indices = stream(mixed, rows)
    seen = mixed.seen(rows, seed=0)
    for number, source in enumerate(mixed.sources):
        here = which == number
        report = seen[f"s{number}"]
        assert report["rows"] == here.sum() and report["epochs"] == pytest.approx(here.sum() / len(source))
        tokens = sum(
            int(source.example(e, i)["mask"].sum()) for e, i in zip(epochs[here], indices[here], strict=True)
        )
        assert report["tokens"] == pytest.approx(tokens, rel=0.25, abs=60)


def test_whole_epochs_count_tokens_exactly() -> None:
    mixed = mix_of(20)
    epochs, ids = mixed.order(np.arange(2 * len(mixed)), 0)
    tokens = int(mixed.rows(epochs, ids)["mask"].sum())
    assert mixed.seen(2 * len(mixed), 0)["s0"]["tokens"] == pytest.approx(tokens)


def test_the_efficiency_is_that_of_the_stream() -> None:
    full, half = Text([[10]] * 20), Text([[4]] * 50)
    half.vocabulary = full.vocabulary
    made = {
        name: FORMATS["padded"].examples(text, 12, 0) for name, text in {"full": full, "half": half}.items()
    }
    assert Mixture(made, weights={"full": 3.0, "half": 1.0}).efficiency == pytest.approx(0.875)


def test_pairs_can_be_mixed() -> None:
    mixed = Mixture(sources(20, 30, name="segment_pair"))  # type: ignore[arg-type]
    labels = np.concatenate([Loader(mixed, 64, 0).rows(step, 0, 64)["pair_label"] for step in range(8)])
    assert 0.4 < labels.mean() < 0.6


def test_bad_mixtures_are_refused() -> None:
    made = sources(20, 30)
    with pytest.raises(ValueError, match=r"temperature=0.0: it must be above 0"):
        Mixture(made, temperature=0.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weights name s0, the corpora are s0, s1"):
        Mixture(made, weights={"s0": 1.0})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"weight -1.0 of s1: it must be above 0"):
        Mixture(made, weights={"s0": 1.0, "s1": -1.0})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="s1 has the share 1e-05 .* set a greater weight or temperature"):
        Mixture(made, weights={"s0": 1.0, "s1": 1e-5})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one corpus or more"):
        Mixture({})
    other = {"pairs": sources(9, name="segment_pair")["s0"], **made}
    with pytest.raises(ValueError, match="pairs has labelled=True and s0 has labelled=False"):
        Mixture(other)  # type: ignore[arg-type]
    other = {"large": sources(9, vocab=103)["s0"], **made}
    with pytest.raises(
        ValueError, match="large and s0 have vocabularies that differ in size: .* same tokenizer"
    ):
        Mixture(other)  # type: ignore[arg-type]
    other = {"wide": FORMATS["padded"].examples(random_text(9, seed=1), 65, 0), **made}
    with pytest.raises(ValueError, match="wide has length=65 and s0 has length=64"):
        Mixture(other)  # type: ignore[arg-type]

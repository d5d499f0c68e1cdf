"""Batches of labelled rows: the template of a tokenizer, lengths that pad least, and every example once an epoch."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest

from bertjax.data.fast_tokenizer import FastTokenizer, wordpiece_json
from bertjax.data.labelled import made_up
from bertjax.data.labelled.buckets import Buckets, LabelledLoader, abstract_labelled, place_rows
from bertjax.data.labelled.examples import Example, LabelledExamples, Row, Shape, Target, shapes_for
from bertjax.data.labelled.template import Template, windows
from bertjax.sharding import MeshConfig, make_mesh

TOKENIZER = made_up.tokenizer()
VOCABULARY = TOKENIZER.vocabulary
TARGETS = {
    "label": Target(np.int32),
    "place": Target(np.float32, tokens=True),
    "pair": Target(np.int32, (2,), fill=-1),
}


def make_examples(sizes: Sequence[int], *, group: int = 1) -> LabelledExamples:
    """Example i has rows of tokens i + 5, the first as long as `sizes` says, the others a token shorter each."""

    def example(index: int, size: int) -> Example:
        rows = [Row(np.full(size - side, index + 5), np.arange(size - side) % 2) for side in range(group)]
        targets: dict[str, Any] = {"label": index, "pair": (index, -index)}
        if group == 1:
            targets["place"] = np.arange(size) + index
        return Example(rows, targets, index // 2, f"about {index}")

    chosen = {name: target for name, target in TARGETS.items() if group == 1 or not target.tokens}
    made = (example(index, size) for index, size in enumerate(sizes))
    return LabelledExamples(made, Shape(chosen, group, VOCABULARY, (len(sizes) + 1) // 2))


def random_sizes(number: int, longest: int = 40) -> list[int]:
    return np.random.default_rng(number).integers(3, longest + 1, number).tolist()


# ---------------------------------------------------------------------------------------------- template


def roberta_like() -> FastTokenizer:
    """<s> A </s></s> B </s>, all of type 0."""
    from tokenizers import Tokenizer, processors

    names = {name: i for i, name in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"])}
    fast = Tokenizer.from_str(wordpiece_json(names, lowercase=True))
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return FastTokenizer({"tokenizer.json": fast.to_str().encode()})


@pytest.mark.parametrize("tokenizer", [TOKENIZER, roberta_like()], ids=["bert", "roberta"])
def test_rows_are_those_of_the_tokenizer(tokenizer: FastTokenizer) -> None:
    template = Template.of(tokenizer)
    texts = ["a b a", "b b", "a", ""]
    for first, second in itertools.product(texts, [None, *texts]):
        parts = tokenizer.encode_batch([first] if second is None else [first, second])
        for length in (64, 6):
            wanted = tokenizer.encode_pair(first, second, length=length)
            keep = template.fit([len(part) for part in parts], length)
            tokens, types, begins = template.row(
                *(part[:size] for part, size in zip(parts, keep, strict=True))
            )
            np.testing.assert_array_equal(tokens, wanted[0])
            np.testing.assert_array_equal(types, wanted[1])
            for begin, part, size in zip(begins, parts, keep, strict=False):
                np.testing.assert_array_equal(tokens[begin : begin + size], part[:size])


def test_windows_cover_and_overlap() -> None:
    for size, room, overlap in itertools.product((0, 1, 5, 6, 7, 23), (1, 4, 6), (0, 1, 3)):
        if overlap >= room:
            continue
        spans = windows(size, room, overlap)
        assert {place for begin, end in spans for place in range(begin, end)} == set(range(size))
        assert all(end - begin <= room for begin, end in spans)
        assert all(b[0] == a[1] - overlap for a, b in itertools.pairwise(spans))
        assert len(spans) == (1 if size <= room else 1 + -(-(size - room) // (room - overlap)))


# ---------------------------------------------------------------------------------------------- examples


def padded(lengths: np.ndarray, shapes: Sequence[int]) -> int:
    return sum(next(shape for shape in shapes if shape >= length) for length in lengths)


@pytest.mark.parametrize("number", [1, 2, 3, 9])
def test_shapes_pad_least(number: int) -> None:
    lengths = np.array([3, 5, 9, 9, 9, 17, 25, 31, 33, 50])
    found = shapes_for(lengths, number, 64)
    possible = [8, 16, 24, 32, 40, 56]
    best = min(
        padded(lengths, (*some, 56))
        for size in range(number)
        for some in itertools.combinations(possible[:-1], size)
    )
    assert padded(lengths, found) == best and found[-1] == 56 and len(found) <= number
    assert shapes_for(lengths, number, 50)[-1] == 50


def test_a_batch_holds_what_was_given() -> None:
    examples = make_examples([5, 9, 4])
    rows = examples.batch(np.array([7, 7, 7]), np.array([2, -1, 1]), 16)
    assert rows["mask"].sum(1).tolist() == [4, 0, 9]
    assert (
        rows["tokens"][0, :4].tolist() == [7] * 4 and (rows["tokens"][~rows["mask"]] == VOCABULARY.pad).all()
    )
    assert rows["types"][2, :9].tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert rows["positions"][2, :9].tolist() == list(range(9)) and rows["positions"][2, 9:].max() == 0
    assert rows["example_id"].tolist() == [2, -1, 1] and rows["epoch"].tolist() == [7, 7, 7]
    assert rows["label"].tolist() == [2, 0, 1] and rows["pair"].tolist() == [[2, -2], [-1, -1], [1, -1]]
    assert rows["place"][2, :9].tolist() == list(range(1, 10)) and rows["place"][2, 9:].max() == 0
    assert examples.record.tolist() == [0, 0, 1] and examples.about[1] == "about 1"


def test_the_rows_of_an_example_stand_together() -> None:
    rows = make_examples([5, 9, 4], group=3).batch(np.zeros(2), np.array([1, 0]), 16)
    assert rows["mask"].sum(1).tolist() == [9, 8, 7, 5, 4, 3]
    assert rows["example_id"].tolist() == [1, 1, 1, 0, 0, 0] and rows["label"].tolist() == [1, 0]


# ---------------------------------------------------------------------------------------------- buckets


@pytest.mark.parametrize("number, size, window", [(100, 8, 3), (64, 8, 32), (5, 8, 2), (33, 4, 1)])
def test_every_example_once_an_epoch(number: int, size: int, window: int) -> None:
    examples = make_examples(random_sizes(number))
    buckets = Buckets(examples, size, shapes_for(examples.lengths, 3, 40), seed=3, window=window)
    orders = []
    for epoch in range(3):
        chosen = [buckets.indices(epoch * buckets.steps + step) for step in range(buckets.steps)]
        assert {seen for seen, _ in chosen} == {epoch}
        flat = np.concatenate([indices for _, indices in chosen])
        assert sorted(flat[flat >= 0]) == list(range(number))
        assert (flat < 0).sum() == buckets.steps * size - number
        orders.append(flat.tolist())
    if number > 8:
        assert orders[0] != orders[1] != orders[2]
    again = Buckets(examples, size, buckets.lengths, seed=3, window=window)
    assert (
        again.indices(buckets.steps)[1].tolist() == orders[1][:size]
    )  # any step first: nothing is remembered
    assert (
        Buckets(examples, size, buckets.lengths, seed=4, window=window).indices(0)[1].tolist()
        != orders[0][:size]
    )


def test_neighbours_in_length_share_a_batch() -> None:
    examples = make_examples(random_sizes(512))
    shapes = shapes_for(examples.lengths, 4, 40)
    random = Buckets(examples, 8, (40,), window=1)
    sorted_ = Buckets(examples, 8, shapes, window=32)
    assert sorted_.efficiency > 0.8 > random.efficiency + 0.2
    assert {sorted_.length(step) for step in range(sorted_.steps)} == set(shapes)
    spread = [np.ptp(examples.lengths[sorted_.indices(step)[1]]) for step in range(sorted_.steps)]
    assert np.mean(spread) < 4


def test_an_evaluation_goes_through_all_by_length() -> None:
    examples = make_examples(random_sizes(21))
    buckets = Buckets(examples, 8, (40,), shuffle=False)
    flat = np.concatenate([buckets.indices(step)[1] for step in range(buckets.steps)])
    assert sorted(flat[flat >= 0]) == list(range(21)) and (flat[21:] == -1).all()
    assert (np.diff(examples.lengths[flat[:21]]) >= 0).all()


def test_tasks_take_turns_by_their_shares() -> None:
    streams = {
        name: Buckets(make_examples(random_sizes(number)), 4, (40,))
        for name, number in (("a", 40), ("b", 80))
    }
    loader = LabelledLoader(streams, {"a": 1.0, "b": 3.0}, steps=4000, seed=5, digest="")
    served = [loader.which(step) for step in range(4000)]
    assert 0.72 < np.mean([name == "b" for name, _ in served]) < 0.78
    for name in streams:
        assert [turn for who, turn in served if who == name] == list(
            range(sum(who == name for who, _ in served))
        )
    shorter = LabelledLoader(streams, {"a": 1.0, "b": 3.0}, steps=50, seed=5, digest="")
    assert [shorter.which(step) for step in range(50)] == served[:50]
    assert loader.examples.size == 120 and 0.3 < loader.examples.efficiency < 0.9


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("data, fsdp, sequence", [(1, 1, 1), (8, 1, 1), (2, 2, 2)])
def test_a_mesh_gets_the_same_batch(group: int, data: int, fsdp: int, sequence: int) -> None:
    """Each part is built from the examples of its own devices alone, which is what several processes do."""
    config = MeshConfig(data=data, fsdp=fsdp, sequence=sequence, rules="fsdp_tensor_sequence")
    mesh = make_mesh(config)
    buckets = Buckets(make_examples(random_sizes(30), group=group), 8, (24, 40), window=2)
    for step in (0, 5):
        batch = place_rows(buckets, "t", step, mesh, config.rules)
        rows = buckets.rows(step, 0, 8)
        for name in ("tokens", "mask", "types", "positions", "example_id", "epoch"):
            np.testing.assert_array_equal(np.asarray(getattr(batch, name)), rows[name], name)
        for name, values in batch.targets["t"].items():
            np.testing.assert_array_equal(np.asarray(values), rows[name], name)
        wanted = abstract_labelled(
            "t", buckets.examples.targets, group, 8, buckets.length(step), mesh, config.rules
        )
        assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), batch) == jax.tree.map(
            lambda x: (x.shape, x.dtype, x.sharding), wanted
        )

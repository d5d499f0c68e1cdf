"""The corpus on disk: what is written is what is read, wherever it lies, and damage is noticed."""

import dataclasses
import json
import pathlib
import pickle
import shutil

import numpy as np
import pytest

from bertjax.data.corpus import Corpus, open_corpus
from bertjax.data.prepare import PrepareOptions, prepare
from bertjax.data.shards import Columns, SplitWriter
from bertjax.data.tokenizer import load
from tests.data.corpora import documents, run_python, write_text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: str) -> str:
    where = tmp_path_factory.mktemp("corpus")
    text = write_text(where / "text.txt", documents(200, seed=1))
    out = str(where / "corpus")
    options = PrepareOptions(
        input=(text,), tokenizer=tokenizer_folder, out=out, heldout=0.2, shard_tokens=1500
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bertjax.data.streams.BLOCK", 2000)  # many units, so many batches and shards
        prepare(options)
    return out


@pytest.fixture
def copy(folder: str, tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(folder, tmp_path / "copy"))


def whole(corpus: Corpus) -> list[list[list[int]]]:
    """Documents as lists of sentences as lists of tokens."""
    sentences = [
        corpus.read(int(start), int(stop)).tolist()
        for start, stop in zip(corpus.sentence_offsets, corpus.sentence_offsets[1:], strict=False)
    ]
    bounds = zip(corpus.document_offsets, corpus.document_offsets[1:], strict=False)
    return [sentences[int(first) : int(last)] for first, last in bounds]


def test_documents_come_back_in_order_in_either_split(folder: str, tokenizer_folder: str) -> None:
    tokenizer = load(tokenizer_folder)
    expected = [
        [tokens.tolist() for tokens in tokenizer.encode_batch(sentences)]
        for sentences in documents(200, seed=1)
    ]
    train, heldout = whole(open_corpus(folder)), whole(open_corpus(folder, "heldout"))
    assert len(heldout) > 10 and len(train) + len(heldout) == 200
    kept = iter(train)
    held = iter(heldout)
    for document in expected:  # each is the next one of one of the two
        source = kept if document in train else held
        assert next(source) == document


def test_any_span_over_shards_and_batches_is_a_slice_of_the_whole(folder: str) -> None:
    corpus = open_corpus(folder)
    assert corpus.manifest["splits"]["train"]["shards"] > 3
    everything = corpus.read(0, corpus.tokens)
    assert everything.dtype == np.int32 and len(everything) == corpus.sentence_offsets[-1] == corpus.tokens
    random = np.random.default_rng(0)
    for start, stop in np.sort(random.integers(0, corpus.tokens + 1, (200, 2))):
        np.testing.assert_array_equal(corpus.read(int(start), int(stop)), everything[start:stop])
    with pytest.raises(IndexError, match="positions 3 to 1000000"):
        corpus.read(3, 1_000_000)


def test_many_batches_in_a_shard(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, copy: pathlib.Path
) -> None:
    monkeypatch.setattr("bertjax.data.shards.BATCH_TOKENS", 10)
    random = np.random.default_rng(0)
    with SplitWriter(str(tmp_path / "split"), vocabulary_size=70_000, shard_tokens=100) as writer:
        tokens = random.integers(0, 70_000, 600).astype(np.uint32)
        for number in range(100):  # a document of two sentences, of two and of four tokens
            writer.add(
                Columns(
                    tokens[6 * number : 6 * number + 6],
                    np.array([2, 4]),
                    np.array([2]),
                    np.array([number], np.uint64),
                    np.array([1], np.uint16),
                    tokens[6 * number : 6 * number + 6].astype(np.uint8) % 2,
                )
            )
        counts = writer.close()
    assert counts["tokens"] == 600 and counts["shards"] == 6  # batches of 12 tokens, 9 of them reach 100
    shutil.rmtree(copy / "train")
    (tmp_path / "split").rename(copy / "train")
    manifest = {"digest": "x", "splits": {"train": counts}, "sources": []}
    vocabulary = dataclasses.replace(load(str(copy / "tokenizer")).vocabulary, size=70_000)
    corpus = Corpus(str(copy), "train", manifest, vocabulary)
    assert corpus.segmented
    for start in range(0, 600, 7):
        stop = min(start + 50, 600)
        np.testing.assert_array_equal(corpus.read(start, stop), tokens[start:stop])
        np.testing.assert_array_equal(
            corpus.word_starts(start, stop), tokens[start:stop].astype(np.uint8) % 2 == 1
        )
    assert corpus.sentence_offsets[:4].tolist() == [0, 2, 6, 8] and corpus.document_offsets[:3].tolist() == [
        0,
        2,
        4,
    ]
    assert corpus.ids.tolist() == list(range(100)) and set(corpus.sources.tolist()) == {1}


def test_word_starts_go_by_the_vocabulary_without_a_segmenter(folder: str) -> None:
    corpus = open_corpus(folder)
    assert not corpus.segmented
    names = load(f"{folder}/tokenizer").tokens(corpus.read(0, 300))
    assert any(name.startswith("##") for name in names)
    assert corpus.word_starts(0, 300).tolist() == [not name.startswith("##") for name in names]


def test_arrow_tools_read_the_shards(folder: str) -> None:
    from datasets import Dataset

    corpus = open_corpus(folder)
    row = 0
    for shard in sorted(pathlib.Path(folder, "train").glob("*.arrow")):
        for record in Dataset.from_file(str(shard)):
            first, last = corpus.document_offsets[row : row + 2]
            start, stop = corpus.sentence_offsets[[first, last]]
            assert record["tokens"] == corpus.read(int(start), int(stop)).tolist()
            assert record["sentences"] == np.diff(corpus.sentence_offsets[first : last + 1]).tolist()
            assert record["id"] == corpus.ids[row] and record["source"] == corpus.sources[row] == 0
            row += 1
    assert row == corpus.documents


def test_reading_needs_numpy_only(folder: str) -> None:
    run_python(
        "import sys\n"
        "for name in ('pyarrow', 'datasets', 'tokenizers', 'jax'): sys.modules[name] = None\n"
        "from bertjax.data.corpus import open_corpus\n"
        f"corpus = open_corpus({folder!r}, verify=True)\n"
        "assert corpus.read(0, 50).shape == (50,) and corpus.vocabulary.size == 200"
    )


def test_a_corpus_can_be_sent_to_another_process(folder: str) -> None:
    corpus = pickle.loads(pickle.dumps(open_corpus(folder, "heldout")))
    assert corpus.split == "heldout"
    np.testing.assert_array_equal(corpus.read(0, 99), open_corpus(folder, "heldout").read(0, 99))


def test_sizes_are_checked_always_and_contents_on_demand(copy: pathlib.Path) -> None:
    files = json.loads((copy / "manifest.json").read_text())["files"]
    on_disk = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()}
    assert on_disk == {*files, "manifest.json", "stamp"}
    open_corpus(str(copy), verify=True)
    for name in files:
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(content[:-1])
        with pytest.raises(ValueError, match=rf"{name} has {len(content) - 1} bytes, not {len(content)}"):
            open_corpus(str(copy))
        (copy / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ValueError, match=f"{name} does not have the sha256"):
            open_corpus(str(copy), verify=True)
        (copy / name).unlink()
        with pytest.raises(ValueError, match=f"{name} is missing"):
            open_corpus(str(copy))
        (copy / name).write_bytes(content)


@pytest.mark.parametrize(
    ("old", "new"),
    [('"tokens": ', '"tokens": 1'), ('"mask": 4', '"mask": 3'), ("{", ""), ("sha256", "sha257")],
)
def test_a_changed_manifest_is_noticed(copy: pathlib.Path, old: str, new: str) -> None:
    manifest = copy / "manifest.json"
    text = manifest.read_text()
    assert old in text
    manifest.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=r"manifest\.json was changed"):
        open_corpus(str(copy))


def test_what_is_not_a_corpus(copy: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'heldout'"):
        open_corpus(str(copy), "held_out")
    with pytest.raises(ValueError, match=r"not a prepared corpus \(there is no such folder\)"):
        open_corpus(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"not a prepared corpus \(it has no manifest.json\)"):
        open_corpus(str(tmp_path))
    with pytest.raises(ValueError, match="was changed"):
        open_corpus(str(copy / "manifest.json"))
    (copy / "manifest.json").unlink()
    (copy / "parts").mkdir()
    with pytest.raises(ValueError, match="unfinished corpus: run the same prepare again"):
        open_corpus(str(copy))


def test_an_empty_split_is_named(tmp_path: pathlib.Path, tokenizer_folder: str) -> None:
    text = write_text(tmp_path / "text.txt", documents(5))
    out = str(tmp_path / "corpus")
    prepare(PrepareOptions(input=(text,), tokenizer=tokenizer_folder, out=out, heldout=0))
    with pytest.raises(ValueError, match=r"heldout is empty \(train 5, heldout 0 documents\)"):
        open_corpus(out, "heldout")

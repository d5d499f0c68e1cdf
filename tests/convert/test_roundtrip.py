"""What is written comes back bit by bit, for every class of every family; and what is written is what was asked for."""

import dataclasses
import json
import pathlib
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from bertjax import tasks
from bertjax.attention.window import Window
from bertjax.bundle import open_tokenizer
from bertjax.convert.families import FAMILIES
from bertjax.convert.fields import unlike
from bertjax.convert.reading import read_model
from bertjax.convert.source import open_source
from bertjax.convert.writing import plan_writing, write_config, write_tensors
from bertjax.layers.position import Rope
from bertjax.models.decoder import DecoderHead, DecoderOptions
from bertjax.models.task_heads import Answer, Classify, Tag
from tests.convert.broken import refused
from tests.convert.models import (
    CASES,
    VARIANTS,
    VOCABULARY,
    config_json,
    our_config,
    random_model,
    two_sides,
    write_published,
)
from tests.runs import tiny


def write(model: Any, folder: pathlib.Path, **options: Any) -> Any:
    plan = plan_writing(model, **options)
    folder.mkdir(exist_ok=True)
    write_config(plan, folder)
    write_tensors(plan, folder / "model.safetensors")
    return plan


@pytest.mark.parametrize(("name", "end"), CASES)
def test_export_then_import(name: str, end: str, tmp_path: pathlib.Path) -> None:
    export_then_import(name, config_json(name, end), end, tmp_path)


@pytest.mark.parametrize("variant", VARIANTS)
def test_export_then_import_variants(variant: str, tmp_path: pathlib.Path) -> None:
    name, end, changes = VARIANTS[variant]
    theirs = config_json(name, end, **changes)
    export_then_import(name, theirs, end, tmp_path)


def export_then_import(name: str, theirs: dict[str, Any], end: str, tmp_path: pathlib.Path) -> None:
    family = FAMILIES[name]
    model = random_model(our_config(family, end, theirs), family=name, pad=theirs["pad_token_id"])
    plan = write(model, tmp_path)
    assert plan.class_name == theirs["architectures"][0]
    written = json.loads((tmp_path / "config.json").read_text())
    assert {key: written[key] for key in theirs} == theirs
    with open_source(str(tmp_path)) as source:
        back = read_model(source)
        assert back.shapes == model.shapes
        for path in model.shapes:
            np.testing.assert_array_equal(back.read(path), model.read(path), path)
    assert not unlike(back.config.model, model.config.model)
    assert back.config.heads == model.config.heads
    assert [task.name for task in back.config.tasks] == [task.name for task in model.config.tasks]


def read_all(folder: str) -> tuple[Any, dict[str, np.ndarray]]:
    with open_source(folder) as source:
        model = read_model(source)
        return model, {path: model.read(path) for path in model.shapes}


WORDS, DECODER = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"


def test_half_precision_is_read_exactly(tmp_path: pathlib.Path) -> None:
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float64):

        def edit(tensors: dict[str, np.ndarray], dtype: Any = dtype) -> None:
            for name in tensors:
                tensors[name] = tensors[name].astype(dtype)

        name = np.dtype(dtype).name
        model, found = read_all(write_published(tmp_path / name, edit=edit))
        whole = read_all(write_published(tmp_path / "whole"))[1]
        assert model.about["dtypes"] == {name: 62}
        for path, array in found.items():
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, whole[path].astype(dtype).astype(np.float32))


def test_older_names_and_copies(tmp_path: pathlib.Path) -> None:
    """gamma and beta, tables stored twice or under the other name, buffers, no prefix: all the same model."""
    wanted = read_all(write_published(tmp_path / "plain"))[1]

    def tensorflow_names(tensors: dict[str, np.ndarray]) -> None:
        for name in list(tensors):
            other = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            )
            tensors[other] = tensors.pop(name)

    def twice(tensors: dict[str, np.ndarray]) -> None:
        tensors[DECODER] = tensors[WORDS].copy()
        tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"].copy()
        tensors["bert.embeddings.position_ids"] = np.arange(18)[None]

    def elsewhere(tensors: dict[str, np.ndarray]) -> None:
        tensors[DECODER] = tensors.pop(WORDS)

    for number, edit in enumerate((tensorflow_names, twice, elsewhere)):
        found = read_all(write_published(tmp_path / str(number), edit=edit))[1]
        assert found.keys() == wanted.keys()
        for path in wanted:
            np.testing.assert_array_equal(found[path], wanted[path], path)


def test_untied_tables(tmp_path: pathlib.Path) -> None:
    """Each is kept, and what is exported has the copy of the bias that the class then reads."""

    def edit(tensors: dict[str, np.ndarray]) -> None:
        tensors[DECODER] = tensors[WORDS] + 1
        tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"] + 1

    model, found = read_all(write_published(tmp_path / "theirs", edit=edit, tie_word_embeddings=False))
    assert not model.config.model.tied
    for left, right in (("heads_mlm/table", "encoder/embedder/tokens"), ("heads_mlm/bias", None)):
        base = read_all(write_published(tmp_path / "tied"))[1][right or left]
        np.testing.assert_array_equal(found[left][:53], base[:53] + 1)
    plan = write(model, tmp_path / "back")
    tensors = dict(plan.arrays())
    np.testing.assert_array_equal(tensors["cls.predictions.decoder.bias"], tensors["cls.predictions.bias"])
    again = read_all(str(tmp_path / "back"))[1]
    for path in found:
        np.testing.assert_array_equal(again[path], found[path], path)


def changed(end: str = "Model", name: str = "bert", heads: tuple[Any, ...] = (), **changes: Any) -> Any:
    """A model of a family with settings that it does not have."""
    config = our_config(FAMILIES[name], end, config_json(name, end))
    model = dataclasses.replace(config.model, **changes)
    return random_model(dataclasses.replace(config, model=model, heads=(*config.heads, *heads)))


@pytest.mark.parametrize(
    ("model", "options", "messages"),
    [
        (changed(block="pre"), {"family": "bert"}, ("model.block: 'post' there, 'pre' here",)),
        (
            changed(position=Rope()),
            {"family": "bert"},
            ("the family bert cannot hold this model: model.position",),
        ),
        (changed(attention=Window(4)), {"family": "bert"}, ("model.attention",)),
        (changed(head_size=6), {"family": "bert"}, ("model.head_size: 8 there, 6 here",)),
        (changed(direction="left_to_right"), {"family": "bert"}, ("model.direction",)),
        (changed(activation="relu2", types=4), {"family": "distilbert"}, ("model.types",)),
        (changed(position=Rope()), {}, ("no published family can hold this model: bert (",)),
        (changed(sharing="all"), {"family": "albert"}, ("model.embedding_width",)),
        (changed(heads=(Tag(hidden="tanh"),)), {}, ("made otherwise: heads.tag.hidden",)),
        (changed(heads=(Tag(), Answer())), {}, ("no class with the heads tag, answer", "--heads")),
        (changed(heads=(Tag(), Answer())), {"heads": ("tg",)}, ("no head 'tg': did you mean 'tag'",)),
        (
            changed("ForTokenClassification", heads=(Classify(),)),
            {"heads": ("classify",)},
            ("model.pooler=false",),
        ),
    ],
)
def test_models_that_cannot_be_written(
    model: Any, options: dict[str, Any], messages: tuple[str, ...], tmp_path: pathlib.Path
) -> None:
    with refused(*messages):
        write(model, tmp_path, **options)


def test_a_model_made_here_finds_its_family() -> None:
    for name, end in (
        ("bert", "ForPreTraining"),
        ("roberta", "ForMaskedLM"),
        ("albert", "Model"),
        ("mpnet", "Model"),
    ):
        assert plan_writing(changed(end, name)).family.name == name
    assert (
        plan_writing(changed(end="ForQuestionAnswering", types=None, norm_epsilon=1e-12)).family.name
        == "distilbert"
    )


@pytest.mark.parametrize(
    ("task", "name"),
    [
        (tasks.Classify(labels=("no", "yes", "both")), "BertForSequenceClassification"),
        (tasks.Classify(labels=("a", "b"), problem="multi"), "BertForSequenceClassification"),
        (tasks.Classify(called="sst2", labels=("no", "yes")), "BertForSequenceClassification"),
        (tasks.Regress(), "BertForSequenceClassification"),
        (tasks.Tag(labels=("O", "B-A", "I-A")), "BertForTokenClassification"),
        (tasks.Answer(), "BertForQuestionAnswering"),
        (tasks.Choose(), "BertForMultipleChoice"),
        (tasks.Embed(), "BertModel"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_what_a_task_has_learned(task: Any, name: str, tmp_path: pathlib.Path) -> None:
    """Heads of fine-tuning, under whatever name the task goes, in the class that has such a head."""
    model = random_model(dataclasses.replace(tiny(), tasks=(task,)))
    plan = write(model, tmp_path)
    assert plan.class_name == name
    labels = getattr(task, "labels", ())
    if labels:
        assert list(json.loads((tmp_path / "config.json").read_text())["id2label"].values()) == list(labels)
    back, found = read_all(str(tmp_path))
    heads = {path: x for path, x in model_arrays(model).items() if path.startswith("heads_")}
    assert len(heads) == (0 if name == "BertModel" else 2)
    for path, array in heads.items():
        kind = {"regress": "classify", "sst2": "classify"}.get(task.name, task.name)
        np.testing.assert_array_equal(found[path.replace(f"heads_{task.name}/", f"heads_{kind}/")], array)
    assert all(getattr(head, "labels", labels) == labels for head in back.config.heads)


@pytest.mark.parametrize(("table", "tied"), [("encoder", "true"), ("own", "true"), ("own", "false")])
def test_a_decoder_is_written_with_its_encoder(table: Any, tied: str, tmp_path: pathlib.Path) -> None:
    """Under whatever name its task goes; whose table it reads comes back, though config.json does not tell."""
    options = DecoderOptions(layers=1, table=table)
    task = tasks.Translate(called="de_en", decoder=options, target_tokens=8)
    model = random_model(dataclasses.replace(tiny(f"model.tied={tied}"), tasks=(task,)))
    plan = write(model, tmp_path)
    assert plan.class_name == "EncoderDecoderModel" and plan.config["decoder"]["num_hidden_layers"] == 1
    assert "decoder.bert.embeddings.word_embeddings.weight" in plan.tensors()
    back, found = read_all(str(tmp_path))
    assert back.config.heads == (DecoderHead(options),)
    arrays = model_arrays(model)
    assert ("heads_de_en/embedder/tokens" in arrays) == (table == "own")
    assert {path.replace("heads_de_en/", "heads_translate/") for path in arrays} == found.keys()
    rows, vocab = model.config.model.rows, model.config.model.vocab
    for path, array in arrays.items():
        some = slice(vocab if len(array) == rows else None)  # a table of ours ends in rows that are no tokens
        other = found[path.replace("heads_de_en/", "heads_translate/")]
        np.testing.assert_array_equal(other[some], array[some], path)


def test_pairs_that_do_not_fit(tmp_path: pathlib.Path) -> None:
    sides = two_sides()
    for number, (changes, message) in enumerate(
        (
            (
                two_sides(hidden_size=48),
                "decoder and encoder differ (model.head_size: 16 there, 8 here, model.width: 48 there, 24 here)",
            ),
            (two_sides(model_type="gpt2"), "the decoder is of the family 'gpt2'"),
            (two_sides(is_decoder=False), "is_decoder=False is not supported"),
            ({**sides, "encoder": None}, "the encoder is of the family None"),
            (two_sides(num_hidden_layers=10**6), "layers of the decoder are more than"),
            (two_sides(num_hidden_layers=9), "config.json says more layers than it has"),
            ({"eos_token_id": 7}, "eos_token_id=7 is not the token sep"),
        )
    ):
        folder = write_published(
            tmp_path / str(number), "encoder-decoder", "Model", vocabulary=VOCABULARY, **changes
        )
        with refused(message), open_source(folder) as source:
            read_model(source, open_tokenizer(folder))


def model_arrays(model: Any) -> dict[str, np.ndarray]:
    return {path: model.read(path) for path in model.shapes}


def test_two_heads_of_one_kind(tmp_path: pathlib.Path) -> None:
    several = (
        tasks.Classify(called="sst2", labels=("a", "b")),
        tasks.Classify(called="cola", labels=("c", "d")),
    )
    model = random_model(dataclasses.replace(tiny(), tasks=several))
    with refused("several heads of one kind (sst2, cola)", "--heads"):
        write(model, tmp_path)
    assert write(model, tmp_path, heads=("cola",)).config["id2label"] == {"0": "c", "1": "d"}


def test_fixed_numbers_are_compared(tmp_path: pathlib.Path) -> None:
    """RoFormer's sines: in half precision they are the same, other numbers and other sizes are refused."""
    name = "roformer.encoder.embed_positions.weight"

    def write_sines(change: Any) -> str:
        def edit(tensors: dict[str, np.ndarray]) -> None:
            assert tensors[name].shape == (18, 8) and tensors[name][0, 4:].tolist() == [1.0] * 4
            tensors[name] = change(tensors[name])

        return write_published(
            tmp_path / str(len(list(tmp_path.iterdir()))), "roformer", "ForMaskedLM", edit=edit
        )

    read_all(write_sines(lambda sines: sines.astype(ml_dtypes.bfloat16)))
    for change in (lambda sines: sines[:, ::-1], lambda sines: sines[:-1]):
        with pytest.raises(
            ValueError, match="does not hold the numbers that all models of the family roformer"
        ):
            read_all(write_sines(change))

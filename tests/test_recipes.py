"""Every way to fine-tune, from one small model: scanned on eight devices, killed and resumed, then used.

Each is held against the same run on one device that nothing interrupts: unrolled, but where layers begin with new
random numbers, of which a scan draws others.
"""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from runs import Killed, assert_near, kill
from test_finetune import heldout, tiny

from bertjax import bundle, evaluate, train
from bertjax.checkpoint import Checkpoints
from bertjax.config import CHOICES, Config, adopt
from bertjax.convert.writing import plan_writing
from bertjax.data.labelled import made_up
from bertjax.data.labelled.buckets import LabelledLoader
from bertjax.finetune import open_sets
from bertjax.inherit import flat
from bertjax.layers.config import EncoderConfig
from bertjax.models.stacking import unstack_layers
from bertjax.program import build, create_state
from bertjax.settings import override
from bertjax.sharding import MeshConfig

pytestmark = pytest.mark.usefixtures("quick_compiles")

SHAPE = ("model.layers=2", "model.width=16", "model.heads=2", "model.feedforward=24", "data.shapes=1")
MESH = ("model.scan=true", "mesh.data=4", "mesh.fsdp=2", "mesh.rules=fsdp")
FEATURES = ("features=concat_last_four", "features.layers=-2,-1", "features.lstm=1", "features.lstm_width=8")
# What is set, and of the encoder's arrays those that may move: all, none, or those whose path ends so.
METHODS: dict[str, tuple[tuple[str, ...], Any]] = {
    "houlsby": (
        ("model.adapter=houlsby", "model.adapter.size=4", "tune.trained=adapters", "tune.norms=true"),
        (
            "_adapter/down/kernel",
            "_adapter/down/bias",
            "_adapter/up/kernel",
            "_adapter/up/bias",
            "norm/scale",
            "norm/bias",
        ),
    ),
    "prompt": (("model.prompt=input", "model.prompt.size=3", "tune.trained=prompt"), ("/prompt",)),
    "prompts": (("model.prompt=layers", "model.prompt.size=3", "tune.trained=prompt"), ("/prompt",)),
    "features": (
        ("tune.trained=heads", "tasks.classify.pooling=mean", *(f"tasks.classify.{one}" for one in FEATURES)),
        (),
    ),
    "free_lb": (("train.adversarial=free_lb", "train.adversarial.steps=2"), None),
    "sift": (("train.adversarial=sift", "tasks.classify.r_drop=0.5"), None),
}


TOKENS = made_up.tokenizer().vocabulary.size
SCANNED = ("houlsby", "prompts")
QUICK = ("houlsby",)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A trained model, plain and unrolled."""
    workdir = tmp_path_factory.mktemp("source")
    train.train(tiny(*SHAPE, "train.steps=8", epochs=None, eval_every=None), str(workdir))
    return workdir


def config_of(source: pathlib.Path, *settings: str) -> Config:
    """Six steps from that model."""
    config = tiny("data.shapes=1", "train.steps=6", epochs=None, eval_every=None, checkpoint_every=2)
    config = adopt(dataclasses.replace(config, model=EncoderConfig(init=str(source))))
    return override(config, settings, CHOICES)


def learned(workdir: pathlib.Path, step: int = 6) -> dict[str, Any]:
    return flat(unstack_layers(jax.device_get(Checkpoints(workdir).load_params(step))))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in METHODS]
)
def test_a_way_to_fine_tune(
    name: str, source: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, moving = METHODS[name]
    alone, many = tmp_path / "alone", tmp_path / "many"
    scan = ("model.scan=true",) if name in SCANNED else ()
    train.train(config_of(source, *settings, *scan), str(alone))
    told = capsys.readouterr().err
    place = LabelledLoader.place

    def place_or_end(loader: LabelledLoader, step: int, *where: Any) -> Any:
        if step == 4 and loader.examples.digest:
            kill()
        return place(loader, step, *where)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LabelledLoader, "place", place_or_end)
        with pytest.raises(Killed):
            train.train(config_of(source, *settings, *MESH), str(many))
    assert train.train(config_of(source, *settings, *MESH), str(many))
    assert "resumes at step 4" in capsys.readouterr().err
    one = learned(alone)
    assert_near(learned(many), one, 1e-2)

    before, last = learned(source, 8), heldout(many)[-1]
    number = 0
    for path, leaf in one.items():
        moves = moving is None or not path.startswith("encoder/") or path.endswith(moving)
        number += leaf.size * moves
        if path in before and before[path].shape == leaf.shape:
            real = slice(TOKENS) if path == "encoder/embedder/tokens" else slice(None)  # rows that are tokens
            same = np.array_equal(before[path][real], leaf[real])
            assert same != moves or path.endswith("key/bias"), path  # whose gradient is nothing but rounding
    total = sum(leaf.size for leaf in one.values())
    share = f"; {number:,} of them are trained, {number / total:.2%}"
    assert ("of them are trained" in told) == (moving is not None)
    assert moving is None or share in told, (share, told)

    # It is evaluated elsewhere, loaded and used.
    values = evaluate.run(str(many), MeshConfig(data=1))
    assert values["loss"] == pytest.approx(last["heldout_loss"], rel=1e-4)
    loaded = bundle.load(str(many))
    texts = made_up.make_up("classify", "heldout").columns["text"]
    scores = np.asarray(loaded.outputs(*loaded.tokenize(texts))["classify"])
    lines = [json.loads(line) for line in (many / "predictions.jsonl").read_text().splitlines()]
    labels = list(lines[0]["probabilities"])
    assert (
        np.mean([labels[row.argmax()] == line["label"] for row, line in zip(scores, lines, strict=True)])
        > 0.98
    )
    if "model." in settings[0]:
        with pytest.raises(
            ValueError, match=f"this model has {settings[0].partition('=')[0]}, which no published"
        ):
            plan_writing(loaded.opened())


@pytest.mark.parametrize("trained", ["heads", "biases"])
def test_a_frozen_encoder_drops_nothing(trained: str) -> None:
    """It is read as in evaluation, whatever its dropout; one of which something moves is not."""
    drops = ("model.dropout=0.5", "tasks.classify.head_dropout=0.0", f"tune.trained={trained}")
    sets = open_sets(tiny(*SHAPE, *drops))
    program = build(sets.config, sets.tokenizer.vocabulary, lengths=sets.lengths)
    batch = sets.loader("train").place(0, program.mesh, "data")
    params = create_state(program).params
    run = jax.jit(lambda key: program.apply(params, batch, train=True, rngs={"dropout": key})["classify"])
    first, second = (run(jax.random.key(number)) for number in range(2))
    assert np.array_equal(first, second) == (trained == "heads")


@pytest.mark.parametrize("name", ["adapters", "prompt"])
def test_what_moves_must_be_there(name: str, source: pathlib.Path) -> None:
    with pytest.raises(
        ValueError, match=f"tune.trained={name} and model.{name.removesuffix('s')}=none: set model"
    ):
        train.train(config_of(source, f"tune.trained={name}"), "unused")


def test_an_experiment_adds_to_the_model_it_starts_from(source: pathlib.Path) -> None:
    """Adapters of the config are kept, and those of the source where it has none."""
    asked = override(tiny(f"model.init={source}"), ["model.adapter=pfeiffer"], CHOICES)
    assert adopt(asked).model.adapter == asked.model.adapter and adopt(asked).model.width == 16
    assert adopt(tiny(f"model.init={source}")).model.adapter is None

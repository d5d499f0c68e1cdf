"""What is written comes back bit by bit, for every class of every family; and what is written is what was asked for."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest

from bertjax.convert.families import FAMILIES
from bertjax.convert.fields import unlike
from bertjax.convert.reading import read_model
from bertjax.convert.source import open_source
from bertjax.convert.writing import plan_writing, write_config, write_tensors
from tests.convert.models import CASES, config_json, our_config, random_model


def write(model: Any, folder: pathlib.Path, **options: Any) -> Any:
    plan = plan_writing(model, **options)
    folder.mkdir(exist_ok=True)
    write_config(plan, folder)
    write_tensors(plan, folder / "model.safetensors")
    return plan


@pytest.mark.parametrize(("name", "end"), CASES)
def test_export_then_import(name: str, end: str, tmp_path: pathlib.Path) -> None:
    family, theirs = FAMILIES[name], config_json(name, end)
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

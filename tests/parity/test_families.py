"""Every class of every family of `transformers`, with random weights and unusual sizes: what it computes, and back.

The report that ends an import does the comparison: all hidden states and the outputs of all heads, within 1e-4 of the
largest value. Then the model is exported: the class loads it without a missing or unexpected key, and all of its
tensors are those that it began with.
"""

import functools
import pathlib
from typing import Any

import numpy as np
import pytest

from bertjax import bundle
from bertjax.convert.export import export
from bertjax.convert.families import FAMILIES
from bertjax.convert.model import heads_of
from bertjax.convert.parity import quiet, report
from tests.convert.models import ALIKE, CASES, VARIANTS, config_json
from tests.parity.weights import array, shake

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("quick_compiles")]


@functools.cache
def cached(name: str, end: str, variant: str | None = None) -> Any:
    """A model of a class."""
    transformers = pytest.importorskip("transformers")
    theirs = config_json(name, end, **(VARIANTS[variant][2] if variant else {}))
    cls = getattr(transformers, theirs["architectures"][0])
    return shake(
        cls(cls.config_class(**{key: value for key, value in theirs.items() if key != "model_type"}))
    )


def save(model: Any, folder: pathlib.Path) -> str:
    with quiet():
        model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("name", "end"), [(name, end) for name, end in CASES if name not in ALIKE or end == "ForMaskedLM"]
)
def test_there_and_back(name: str, end: str, tmp_path: pathlib.Path) -> None:
    there_and_back(cached(name, end), name, end, tmp_path)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_there_and_back(variant: str, tmp_path: pathlib.Path) -> None:
    name, end, _ = VARIANTS[variant]
    there_and_back(cached(name, end, variant), name, end, tmp_path)


def there_and_back(model: Any, name: str, end: str, tmp_path: pathlib.Path) -> None:
    family = FAMILIES[name]
    folder = save(model, tmp_path / "theirs")
    ours = bundle.load(folder)
    kinds = {name: kind for name, (kind, _) in heads_of(ours.model).items()}
    assert set(kinds.values()) == set(family.architectures[end].heads)
    lines = list(report(ours, folder, family, ours.about["class"], kinds, ours.about["pad"]))
    assert sum("largest difference" in line for line in lines) >= 4 + len(kinds)
    list(export(ours, str(tmp_path / "back"), workdir=folder))
    with quiet():
        back, info = type(model).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    theirs, found = model.state_dict(), back.state_dict()
    assert theirs.keys() == found.keys()
    for key in theirs:
        np.testing.assert_array_equal(array(found[key]), array(theirs[key]), key)

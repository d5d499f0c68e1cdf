"""A scan over layers keeps the program, and so its compile time, flat in depth; unrolled, each layer adds the same."""

import dataclasses

import pytest
from runs import tiny

from bertjax.data.open import open_vocabulary
from bertjax.plan.growth import compile_time
from bertjax.program import build
from bertjax.step import make_train_step


def lines(layers: int, *, scan: bool) -> int:
    """Of the program that is given to the compiler."""
    config = tiny()
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, layers=layers, scan=scan))
    program = build(config, open_vocabulary("synthetic", 53))
    with program.active():
        return make_train_step(program).lower(program.state, program.batch).as_text().count("\n")


def test_what_is_compiled_is_flat_in_depth_under_a_scan_and_linear_without() -> None:
    assert lines(48, scan=True) == pytest.approx(lines(12, scan=True), rel=0.01)
    two, three, five = (lines(layers, scan=False) for layers in (2, 3, 5))
    assert three - two > 500 and (five - three) / (three - two) == pytest.approx(2, rel=0.1)


@pytest.mark.slow
def test_48_layers_compile_in_the_time_of_12() -> None:
    """At most 1.5 times, least of two, in processor time; `bench compile` measures it on a quiet machine."""
    config, vocabulary = tiny(), open_vocabulary("synthetic", 53)
    compile_time(config, vocabulary, 2, seed=100)  # what is done once a process
    times = [
        [compile_time(config, vocabulary, layers, seed=101 + i) for layers in (12, 48)] for i in range(2)
    ]
    few, many = (min(column) for column in zip(*times, strict=True))
    assert many <= 1.5 * few, times

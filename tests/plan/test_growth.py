"""A scan over layers keeps compile time flat in depth."""

from runs import tiny

from bertjax.data.open import open_vocabulary
from bertjax.plan.growth import compile_time


def test_48_layers_compile_in_the_time_of_12() -> None:
    """At most 1.5 times; unrolled they take about four times as long. Least of two, in processor time."""
    config, vocabulary = tiny(), open_vocabulary("synthetic", 53)
    compile_time(config, vocabulary, 2, seed=100)  # what is done once a process
    times = [
        [compile_time(config, vocabulary, layers, seed=101 + i) for layers in (12, 48)] for i in range(2)
    ]
    few, many = (min(column) for column in zip(*times, strict=True))
    assert many <= 1.5 * few, times

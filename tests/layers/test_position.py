"""Position schemes against plain numpy, and what each promises about longer rows and shifted ones."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.attention.disentangled import Disentangled
from bertjax.layers.config import Learned
from bertjax.layers.position import POSITIONS, LearnedT5, rotate, scheme_of
from bertjax.layers.position.alibi import Alibi, slopes
from bertjax.layers.position.base import NoPosition
from bertjax.layers.position.relative import Relative
from bertjax.layers.position.relative import bucket as relative_bucket
from bertjax.layers.position.rope import Rope
from bertjax.layers.position.sinusoidal import Sinusoidal
from bertjax.layers.position.t5 import T5
from bertjax.layers.position.t5 import bucket as t5_bucket
from tests.helpers import encode, make_batch, pack, parameters, small

L = 7
POSITIONS_OF_ROWS = np.array([[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 0, 1, 2, 3]], np.int32)
ADDITIVE = (Alibi(), Alibi("directed"), Alibi("learned"), T5(8, 6))


def scheme(options, **changes):
    """The module of a scheme in the small encoder, its random parameters, and a caller of its methods."""
    config = small(position=options, **changes)
    module = scheme_of(options).module(config)
    params = parameters(config).get("position", {})
    return config, params, lambda *args, method: module.apply({"params": params}, *args, method=method)


# ------------------------------------------------------------------------------------------ added to embeddings


def test_sinusoidal_equals_the_formula():
    _, _, call = scheme(Sinusoidal(base=50.0, amplitude=2.0))
    expected = np.zeros((2, L, 24))
    for row, place in np.ndindex(2, L):
        for i in range(12):
            angle = POSITIONS_OF_ROWS[row, place] / 50.0 ** (2 * i / 24)
            expected[row, place, 2 * i : 2 * i + 2] = 2 * math.sin(angle), 2 * math.cos(angle)
    np.testing.assert_allclose(call(POSITIONS_OF_ROWS, method="embed"), expected, atol=1e-5)


def test_sinusoidal_waves_are_as_small_as_the_tokens():
    _, _, call = scheme(Sinusoidal(), init_std=0.05)
    assert np.abs(call(POSITIONS_OF_ROWS, method="embed")).max() == pytest.approx(0.05)


def test_odd_widths_have_waves():
    _, _, call = scheme(Sinusoidal(), width=15, heads=3)
    assert call(POSITIONS_OF_ROWS, method="embed").shape == (2, L, 15)


def test_learned_reads_its_table():
    _, params, call = scheme(Learned())
    np.testing.assert_array_equal(
        call(POSITIONS_OF_ROWS, method="embed"), params["embedding"][POSITIONS_OF_ROWS]
    )


# ------------------------------------------------------------------------------------------ rotation


def turned(options, x, positions=POSITIONS_OF_ROWS):
    return np.asarray(rotate(small(position=options), x, positions))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("pairs", ["halves", "neighbours"])
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_rope_turns_each_pair_as_a_complex_number(pairs, fraction):
    x, size = normal(2, L, 3, 8), int(8 * fraction)
    expected = x.astype(np.float64).copy()
    for i in range(size // 2):
        a, b = (i, i + size // 2) if pairs == "halves" else (2 * i, 2 * i + 1)
        turn = np.exp(1j * POSITIONS_OF_ROWS * 100.0 ** (-2 * i / size))[:, :, None]
        z = (x[..., a] + 1j * x[..., b]) * turn
        expected[..., a], expected[..., b] = z.real, z.imag
    y = turned(Rope(base=100.0, fraction=fraction, pairs=pairs), x)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    np.testing.assert_array_equal(y[..., size:], x[..., size:])


@pytest.mark.parametrize("pairs", ["halves", "neighbours"])
def test_rope_scores_depend_on_distances_only(pairs):
    q, k = normal(2, L, 3, 8), normal(2, L, 3, 8, seed=1)

    def scores(shift):
        where = POSITIONS_OF_ROWS + shift
        options = Rope(pairs=pairs)
        return np.einsum("blhk,bmhk->bhlm", turned(options, q, where), turned(options, k, where))

    np.testing.assert_allclose(scores(0), scores(123), atol=1e-4)
    assert np.abs(scores(0) - np.einsum("blhk,bmhk->bhlm", q, k)).max() > 0.1


def test_rope_keeps_the_dtype_and_turns_in_float32():
    """At position 1000 a bfloat16 angle would be off by several radians."""
    x, far = jnp.asarray(normal(2, L, 3, 8), jnp.bfloat16), POSITIONS_OF_ROWS + 1001
    y = rotate(small(position=Rope(), dtype="bfloat16"), x, far)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.asarray(y, np.float32), turned(Rope(), np.asarray(x, np.float32), far), atol=0.03
    )


@pytest.mark.parametrize(("fraction", "fit"), [(0.9, "1"), (0.375, "0.5"), (0.1, "0.25")])
def test_rope_refuses_an_odd_share_and_names_one_that_fits(fraction, fit):
    with pytest.raises(ValueError, match=f"model.position.fraction={fit} is$") as error:
        turned(Rope(fraction=fraction), normal(2, L, 3, 8))
    assert "\n" not in str(error.value)
    turned(Rope(fraction=float(fit)), normal(2, L, 3, 8))


def test_other_schemes_turn_nothing():
    x = normal(2, L, 3, 8)
    assert turned(Learned(), x) is not None and (turned(NoPosition(), x) == x).all()


# ------------------------------------------------------------------------------------------ added to scores


def test_alibi_slopes_are_the_papers():
    """The table of the paper for eight heads, and its rule for other numbers."""
    np.testing.assert_allclose(slopes(8), [2.0**-n for n in range(1, 9)])
    np.testing.assert_allclose(slopes(16)[::2], 2.0 ** -np.arange(0.5, 8.5, 1.0), rtol=1e-6)
    np.testing.assert_allclose(slopes(12)[:8], slopes(8))
    np.testing.assert_allclose(slopes(12)[8:], slopes(16)[::2][:4])
    np.testing.assert_allclose(slopes(1), [2.0**-8])


@pytest.mark.parametrize("options", ADDITIVE, ids=str)
def test_bias_equals_numpy(options):
    config, params, call = scheme(options, heads=4, width=32)
    values = np.asarray(call(L, method="bias"))
    assert values.shape == (4, 2 * L - 1) and values.dtype == np.float32
    for head, place in np.ndindex(*values.shape):
        distance = place - (L - 1)  # key - query
        far = abs(distance)
        if isinstance(options, T5):  # two buckets for distances 0 and 1 on each side, two for 2..5
            row = far if far < 2 else min(2 + int(math.log(far / 2) / math.log(6 / 2) * 2), 3)
            expected = params["embedding"][row + 4 * (distance > 0), head]
        elif options.slopes == "learned":
            expected = -params["slopes"][int(distance > 0), head] * far
        elif options.slopes == "symmetric":
            expected = -far / 4.0 ** (head + 1)
        else:
            sees = distance <= 0 if head < 2 else distance >= 0
            expected = -far / 16.0 ** (head % 2 + 1) if sees else -1e30
        assert values[head, place] == pytest.approx(expected, rel=1e-5), (head, distance)


def test_learned_slopes_start_at_the_fixed_ones():
    config = small(position=Alibi("learned"), heads=4)
    start = scheme_of(config.position).module(config).init(jax.random.key(0), L, method="bias")["params"]
    np.testing.assert_allclose(start["slopes"].value, np.tile(slopes(4), (2, 1)))


def test_directed_slopes_refuse_an_odd_number_of_heads():
    with pytest.raises(ValueError, match="model.heads=3 is odd: choose symmetric, or model.heads=4"):
        scheme(Alibi("directed"))


def test_t5_buckets_at_the_size_of_t5():
    """32 buckets to 128: 0 to 7 alone, then 8, 12, 16, 23, 32, 46, 64, 91 begin the logarithmic ones."""
    distance = np.arange(0, 500)
    left = t5_bucket(-distance, 32, 128)
    starts = [int(np.flatnonzero(left == row)[0]) for row in range(16)]
    assert starts == [*range(8), 8, 12, 16, 23, 32, 46, 64, 91]
    assert left[-1] == 15 and (np.diff(left) >= 0).all()
    np.testing.assert_array_equal(t5_bucket(distance[1:], 32, 128), left[1:] + 16)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"buckets": 30}, "buckets=30 .*: 32 can"), ({"max_distance": 8}, "max_distance=8 .* 8 distances")],
)
def test_t5_refuses_buckets_that_do_not_come_out(fields, message):
    with pytest.raises(ValueError, match=message):
        T5(**fields)


# ------------------------------------------------------------------------------------------ vectors of distances


def test_relative_rows_follow_the_distances():
    _, params, call = scheme_without_norm(Relative(buckets=None, max_distance=4, norm=False))
    rows = call(L, method="relative")
    expected = params["embedding"][np.clip(np.arange(-6, 7) + 4, 0, 7)]
    np.testing.assert_array_equal(rows, expected)


def scheme_without_norm(options):
    """A scheme whose parameters are drawn here: no attention reads the table of a plain encoder."""
    config = small(position=options)
    module = scheme_of(options).module(config)
    params = {"embedding": normal(2 * (options.buckets or options.max_distance), 24)}
    return config, params, lambda *args, method: module.apply({"params": params}, *args, method=method)


def test_relative_buckets_are_single_then_growing():
    near = np.arange(-4, 5)
    np.testing.assert_array_equal(relative_bucket(near, 8, 64), near + 8)
    far = relative_bucket(np.arange(0, 200), 8, 64)
    assert (np.diff(far) >= 0).all() and far.max() == 15
    sizes = np.bincount(far)[13:15]
    assert sizes[1] > sizes[0] > 1


# ------------------------------------------------------------------------------------------ longer and packed rows


ANY_LENGTH = (
    *(Sinusoidal(), NoPosition(), Rope(), Rope(fraction=0.5), Alibi(), Alibi("directed"), Alibi("learned")),
    *(T5(8, 6), Relative(buckets=4, max_distance=6)),
)
FIXED_LENGTH = (Learned(), Learned(offset=2), LearnedT5(buckets=8, max_distance=6))


def test_of_every_scheme_it_is_known_whether_it_takes_longer_rows():
    assert {type(options) for options in ANY_LENGTH + FIXED_LENGTH} == {
        type(scheme.options) for scheme in POSITIONS.values()
    }


@pytest.mark.parametrize("options", ANY_LENGTH, ids=str)
def test_rows_four_times_as_long_as_in_training_run(options):
    """With the same parameters; a short row inside of a long, padded one is what it was."""
    config = small(position=options, max_length=7, heads=2)
    if isinstance(options, Relative):
        config = dataclasses.replace(config, attention=Disentangled())
    params = parameters(config)
    short, long = make_batch((7, 5)), make_batch((7, 28), length=28)
    long = long.replace(
        tokens=np.concatenate([np.pad(short.tokens[:1], ((0, 0), (0, 21))), long.tokens[1:]]),
        types=np.concatenate([np.pad(short.types[:1], ((0, 0), (0, 21))), long.types[1:]]),
    )
    before, after = encode(config)(params, short), encode(config)(params, long)
    np.testing.assert_allclose(after.hidden[0, :7], before.hidden[0], atol=1e-5)
    assert np.isfinite(after.hidden[1]).all()


@pytest.mark.parametrize("options", FIXED_LENGTH, ids=str)
def test_learned_positions_do_not_extrapolate(options):
    config = small(position=options, max_length=7)
    with pytest.raises(ValueError, match="28 tokens are longer .* set model.max_length=28") as error:
        encode(config)(parameters(config), make_batch((28,)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [Sinusoidal(), Rope(), Alibi(), T5(8, 6)], ids=str)
def test_packed_rows_keep_their_positions(options):
    config, batch = small(position=options), make_batch((7, 5))
    params, packed = parameters(config), pack(batch, 13)
    apart, together = encode(config)(params, batch), encode(config)(params, packed)
    np.testing.assert_allclose(together.hidden[packed.mask], apart.hidden[batch.mask], atol=1e-5)


@pytest.mark.parametrize("name", [name for name in POSITIONS if name not in ("none", "relative")])
def test_order_matters(name):
    """A sentence and its permutation differ, which a bag of words would not."""
    config = small(position=POSITIONS[name].options)
    batch, params = make_batch((7,)), parameters(config)
    order = np.array([[3, 0, 6, 1, 5, 2, 4]])
    moved = batch.replace(
        tokens=np.take_along_axis(batch.tokens, order, 1), types=np.take_along_axis(batch.types, order, 1)
    )
    before, after = encode(config)(params, batch).hidden, encode(config)(params, moved).hidden
    assert (
        np.abs(np.asarray(after) - np.take_along_axis(np.asarray(before), order[:, :, None], 1)).max() > 1e-3
    )


def test_without_positions_order_does_not_matter():
    config = small(position=NoPosition())
    batch, params = make_batch((7,)), parameters(config)
    order = np.array([[3, 0, 6, 1, 5, 2, 4]])
    moved = batch.replace(
        tokens=np.take_along_axis(batch.tokens, order, 1), types=np.take_along_axis(batch.types, order, 1)
    )
    before, after = encode(config)(params, batch).hidden, encode(config)(params, moved).hidden
    np.testing.assert_allclose(after, np.take_along_axis(np.asarray(before), order[:, :, None], 1), atol=1e-5)

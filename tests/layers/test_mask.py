import itertools

import numpy as np
import pytest

from bertjax.layers.mask import AttentionMask
from tests.helpers import make_batch, pack

L = 7
VALID = np.array([[1] * 7, [1] * 5 + [0] * 2, [0] * 7], bool)
SEGMENTS = np.array([[1, 1, 1, 2, 2, 3, 3], [1, 2, 2, 2, 3, 0, 0], [0] * 7], np.int32)


def brute_force(valid, segments, causal, window):
    """The rules of the module's docstring, one pair at a time."""
    allowed = np.zeros((3, L, L), bool)
    for row, i, j in itertools.product(range(3), range(L), range(L)):
        allowed[row, i, j] = (
            (valid is None or valid[row, j])
            and (segments is None or segments[row, i] == segments[row, j])
            and (not causal or j <= i)
            and (window is None or -window[0] <= j - i <= window[1])
        )
    return allowed


KINDS = list(itertools.product((None, VALID), (None, SEGMENTS), (False, True), (None, (1, 2), (3, 0))))


@pytest.mark.parametrize(("valid", "segments", "causal", "window"), KINDS)
def test_matrix_and_intervals_equal_the_rules(valid, segments, causal, window):
    mask = AttentionMask(valid=valid, segments=segments, causal=causal, window=window)
    expected = brute_force(valid, segments, causal, window)
    matrix = np.broadcast_to(mask.matrix(L, L), (3, 1, L, L))[:, 0]
    np.testing.assert_array_equal(matrix, expected)
    start, end = (np.asarray(x)[:, :, None] for x in mask.intervals(L, 3))
    keys = np.arange(L)[None, None, :]
    seen = (start <= keys) & (keys < end)
    # What a padded query sees is nobody's business: it is compared where the query is a real token.
    real = np.ones((3, L), bool) if valid is None and segments is None else VALID
    np.testing.assert_array_equal(seen[real], expected[real])


def test_and_is_the_conjunction():
    parts = [
        AttentionMask(valid=VALID),
        AttentionMask(segments=SEGMENTS),
        AttentionMask(causal=True),
        AttentionMask(window=(1, 2)),
        AttentionMask(valid=VALID[::-1], window=(2, 1)),
    ]
    for left, right in itertools.combinations(parts, 2):
        both = [np.broadcast_to(mask.matrix(L, L), (3, 1, L, L)) for mask in (left, right)]
        joined = np.broadcast_to((left & right).matrix(L, L), (3, 1, L, L))
        np.testing.assert_array_equal(joined, both[0] & both[1])


def test_segments_cannot_be_given_twice():
    with pytest.raises(ValueError, match="give the segments once"):
        AttentionMask(segments=SEGMENTS) & AttentionMask(segments=SEGMENTS)


def test_masks_of_packed_rows_are_blocks_on_the_diagonal():
    packed = pack(make_batch((3, 2)), length=6)
    matrix = np.asarray(AttentionMask(valid=packed.mask, segments=packed.segments).matrix(6, 6))[0, 0]
    expected = np.zeros((6, 6), bool)
    expected[:3, :3] = expected[3:5, 3:5] = True
    np.testing.assert_array_equal(matrix, expected)

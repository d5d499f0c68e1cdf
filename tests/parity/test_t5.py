"""T5's buckets of distances, and its bias of a layer, equal those of `transformers`."""

import numpy as np
import pytest

from bertjax.layers.position.t5 import T5, T5Position, bucket
from tests.helpers import small
from tests.parity.weights import array


@pytest.mark.parity
@pytest.mark.parametrize(("buckets", "longest"), [(32, 128), (64, 512), (8, 20)])
def test_buckets_and_bias(buckets: int, longest: int) -> None:
    torch = pytest.importorskip("torch")
    modeling = pytest.importorskip("transformers.models.t5.modeling_t5")
    distance = np.arange(-2000, 2001)
    theirs = modeling.T5Attention._relative_position_bucket(torch.tensor(distance), True, buckets, longest)
    np.testing.assert_array_equal(bucket(distance, buckets, longest), array(theirs))
    config = modeling.T5Config(
        d_model=24,
        num_heads=3,
        relative_attention_num_buckets=buckets,
        relative_attention_max_distance=longest,
    )
    attention = modeling.T5Attention(config, has_relative_attention_bias=True)
    table = array(attention.relative_attention_bias.weight)
    ours = T5Position(small(position=T5(buckets, longest))).apply(
        {"params": {"embedding": table}}, 30, method="bias"
    )
    matrix = array(attention.compute_bias(30, 30))[0]
    for i, j in ((0, 29), (29, 0), (7, 3), (3, 7), (5, 5)):
        np.testing.assert_allclose(ours[:, j - i + 29], matrix[:, i, j])

import jax
import numpy as np

from bertjax.layers.embed import Embedder
from bertjax.layers.position import scheme_of
from tests.helpers import make_batch, small, unbox


def embedder(config):
    module = Embedder(config, scheme_of(config.position).module(config))
    return module, unbox(module.init(jax.random.key(0), make_batch(), train=False)["params"])


def test_is_the_normalised_sum_of_three_tables():
    config, batch = small(), make_batch()
    module, params = embedder(config)
    y = module.apply({"params": params}, batch, train=False)
    tables = (params["tokens"], params["types"], params["position"]["embedding"])
    tokens, types, places = map(np.asarray, tables)
    x = tokens[batch.tokens] + types[batch.types] + places[batch.positions]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + config.norm_epsilon)
    np.testing.assert_allclose(y, x, atol=1e-5)


def test_narrow_tables_are_projected_after_norm_and_dropout():
    config, batch = small(embedding_width=16), make_batch()
    module, params = embedder(config)
    params = jax.tree.map(lambda p: np.asarray(p) + 0.1, params)
    assert params["tokens"].shape == (56, 16) and params["position"]["embedding"].shape == (16, 16)
    assert params["projection"]["kernel"].shape == (16, 24) and params["norm"]["scale"].shape == (16,)
    tables = (params["tokens"], params["types"], params["position"]["embedding"])
    x = tables[0][batch.tokens] + tables[1][batch.types] + tables[2][batch.positions]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + config.norm_epsilon)
    x = x * params["norm"]["scale"] + params["norm"]["bias"]
    x = x @ params["projection"]["kernel"] + params["projection"]["bias"]
    np.testing.assert_allclose(module.apply({"params": params}, batch, train=False), x, atol=1e-5)


def test_norm_may_be_left_out():
    config, batch = small(embedding_norm=False), make_batch()
    module, params = embedder(config)
    assert "norm" not in params
    tables = [np.asarray(t) for t in (params["tokens"], params["types"], params["position"]["embedding"])]
    x = tables[0][batch.tokens] + tables[1][batch.types] + tables[2][batch.positions]
    np.testing.assert_allclose(module.apply({"params": params}, batch, train=False), x, atol=1e-6)


def test_table_is_padded_to_the_multiple():
    config = small(vocab=53, vocab_multiple=8)
    assert config.rows == 56
    assert embedder(config)[1]["tokens"].shape == (56, 24)
    assert small(vocab=56, vocab_multiple=8).rows == 56


def test_dropout_is_drawn_in_training_only():
    config, batch = small(dropout=0.5), make_batch()
    module, params = embedder(config)
    rngs = {"dropout": jax.random.key(1)}
    dropped = np.asarray(module.apply({"params": params}, batch, train=True, rngs=rngs))
    assert 0.3 < (dropped == 0).mean() < 0.7
    assert (np.asarray(module.apply({"params": params}, batch, train=False)) != 0).all()

"""The ground of conftest.py is really there: a check that is silently off would let everything pass."""

import socket

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

from bertjax.layers.config import EncoderConfig
from bertjax.layers.norm import Norm


def test_eight_devices() -> None:
    assert jax.device_count() == 8
    assert jax.default_backend() == "cpu"


def test_ranks_are_not_promoted() -> None:
    with pytest.raises(ValueError, match="rank promotion|rank_promotion"):
        jnp.ones((2, 7)) + jnp.ones(7)


def test_annotated_shapes_are_checked() -> None:
    norm = Norm(EncoderConfig())
    norm.init(jax.random.key(0), jnp.ones((2, 24)))
    with pytest.raises(jaxtyping.TypeCheckError):
        norm.init(jax.random.key(0), jnp.ones((2, 24), jnp.int32))


@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("example.org", 443), ("2001:db8::1", 80, 0, 0)])
def test_the_network_is_out_of_reach(address: tuple[str, int]) -> None:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family) as connection:
        for call in (connection.connect, connection.connect_ex):
            with pytest.raises(Exception, match="a test connects to"):
                call(address)
    with pytest.raises(Exception, match="a test looks up"):
        socket.create_connection(address[:2])


def test_this_machine_is_in_reach() -> None:
    with socket.create_server(("localhost", 0)) as server, socket.create_connection(server.getsockname()):
        pass

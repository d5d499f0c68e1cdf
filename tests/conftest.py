"""The ground every test stands on: eight CPU devices, no network, no silent broadcasting, checked shapes.

All of it is set before JAX is imported, here and, through the environment, in the processes a test starts.
"""

import importlib.metadata
import os

# Eight devices make every mesh of the tests; a test that starts processes of its own chooses its own number.
os.environ["JAX_PLATFORMS"] = "cpu"
# Tests compile much and run little: without LLVM's optimisations a step compiles about seven times as fast.
FLAGS = ["force_host_platform_device_count=8", "backend_optimization_level=0"]
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    FLAGS.append("cpu_use_fusion_emitters=false")  # newer versions end the process at a flag they do not know
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *(f"--xla_{flag}" for flag in FLAGS)])
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "agg"

import ipaddress
import socket
from collections.abc import Callable, Iterator
from typing import Any

import jaxtyping
import pytest

# Shapes and types of annotated functions are checked at run time from here on. No compilation cache is shared
# between runs: what a test compiles is what this version of the code and of XLA compile.
CHECKED = ("layers", "attention", "models", "tasks", "metrics")
jaxtyping.install_import_hook([f"bertjax.{name}" for name in CHECKED], "beartype.beartype")

import jax


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")
    parser.addoption("--parity", action="store_true", help="also compare with PyTorch and transformers")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for mark in ("slow", "parity"):
        if not config.getoption(f"--{mark}"):
            skip = pytest.mark.skip(reason=f"runs with --{mark}")
            for item in items:
                if mark in item.keywords:
                    item.add_marker(skip)


def pytest_sessionstart(session: pytest.Session) -> None:
    assert jax.device_count() == 8, "JAX was imported before tests/conftest.py could ask for eight devices"


class NetworkError(Exception):
    """Not an OSError, which libraries catch and retry: a test that reaches out has to fail, and at once."""


def _is_local(host: Any) -> bool:
    if host in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(host if isinstance(host, str) else host.decode()).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Connections and look-ups of names end at this machine."""

    def guard(original: Callable[..., Any]) -> Callable[..., Any]:
        def connect(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
                raise NetworkError(f"a test connects to {address}")
            return original(self, address)

        return connect

    def look_up(host: Any, *arguments: Any, **options: Any) -> Any:
        if not _is_local(host):
            raise NetworkError(f"a test looks up {host!r}")
        return getaddrinfo(host, *arguments, **options)

    getaddrinfo = socket.getaddrinfo
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guard(socket.socket.connect))
        patch.setattr(socket.socket, "connect_ex", guard(socket.socket.connect_ex))
        patch.setattr(socket, "getaddrinfo", look_up)
        yield


@pytest.fixture(scope="session")
def quick_compiles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Lets XLA compile four times as fast, without optimization, and each program once a session.

    What is computed is the same. The fixture's value is the environment for processes that a test starts.
    """
    settings = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
    return {name.upper(): str(value) for name, value in settings.items()}

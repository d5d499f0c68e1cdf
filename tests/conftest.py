"""The ground every test stands on: eight CPU devices, no network, no silent broadcasting, checked shapes.

All of it is set before JAX is imported, here and, through the environment, in the processes a test starts.
"""

import collections
import gc
import importlib.metadata
import os
import pathlib

# Eight devices make every mesh of the tests; a test that starts processes of its own chooses its own number.
os.environ["JAX_PLATFORMS"] = "cpu"
# Tests compile much and run little: without LLVM's optimisations a step compiles about seven times as fast.
FLAGS = ["force_host_platform_device_count=8", "backend_optimization_level=0"]
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    # Newer versions end the process at a flag they do not know. A small program in one piece takes a fifth less of
    # the processor than in the many that are compiled side by side: the other tests have the other cores.
    FLAGS += ["cpu_use_fusion_emitters=false", "cpu_parallel_codegen_split_count=1"]
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *(f"--xla_{flag}" for flag in FLAGS)])
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "agg"

# Until all tests are collected: what is imported stays, and looking for what does not takes a third of the time.
gc.disable()

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
from jax._src import compilation_cache

HERE = pathlib.Path(__file__).parent
# A file is run by one process: those that take longest come first, so that at the end nobody waits for one of them.
LONGEST = (
    "attention/test_battery.py",
    "test_crew.py",
    "test_recipes.py",
    "test_distributed.py",
    "test_launch.py",
    "test_finetune.py",
    "test_experiment.py",
    "experiments/test_finetune_suites.py",
    "experiments/test_attention.py",
    "test_resume.py",
    "test_train.py",
    "test_finetune_processes.py",
    "plan/test_advice.py",
    "test_mixed_run.py",
    "test_watchdog.py",
)
assert all((HERE / name).exists() for name in LONGEST)


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
    place = {HERE / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Lets the garbage collector look at what tests make, and less often.

    Tracing makes objects by the million, next to which all that was imported would be looked at again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()


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


@pytest.fixture(scope="session", autouse=True)
def memory_as_it_comes() -> Iterator[None]:
    """The process of the tests is not made to keep its memory by an experiment that runs in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bertjax.heap.computes_on_cpu", lambda: False)
        yield


@pytest.fixture
def swept() -> Iterator[None]:
    """Collects what the test has left behind while its own filters of warnings hold, and not in a later test."""
    yield
    gc.collect()


HELD = 32  # compiled programs that stay in memory: those of a file or two


@pytest.fixture(scope="session")
def quick_compiles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
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
    with pytest.MonkeyPatch.context() as patch:
        hold_compiled(patch, str(settings["jax_compilation_cache_dir"]))
        yield {name.upper(): str(value) for name, value in settings.items()}


def hold_compiled(patch: pytest.MonkeyPatch, folder: str) -> None:
    """Gives back the last programs that JAX kept in this folder as they are: reading one takes half of compiling it."""
    read, write = compilation_cache.get_executable_and_time, compilation_cache.put_executable_and_time
    held: collections.OrderedDict[str, tuple[Any, int]] = collections.OrderedDict()

    def hold(key: str, program: Any, seconds: int) -> None:
        held[key] = program, seconds
        held.move_to_end(key)
        if len(held) > HELD:
            held.popitem(last=False)

    def get(key: str, *rest: Any) -> tuple[Any, Any]:
        here = jax.config.jax_compilation_cache_dir == folder  # and not in that of a test of such folders
        program, seconds = held[key] if here and key in held else read(key, *rest)
        if here and program is not None:
            hold(key, program, seconds)
        return program, seconds

    def put(key: str, name: str, program: Any, backend: Any, seconds: int) -> None:
        write(key, name, program, backend, seconds)
        if jax.config.jax_compilation_cache_dir == folder:
            hold(key, program, seconds)

    patch.setattr(compilation_cache, "get_executable_and_time", get)
    patch.setattr(compilation_cache, "put_executable_and_time", put)

"""One small tokenizer for all tests of the data path, and pools that do not start processes where none is asked for."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bertjax.data import workers
from bertjax.data.tokenizer import TokenizerOptions, train_tokenizer
from tests.data.corpora import documents, write_text

_CALL = workers.Pool._call
_TURN = threading.Lock()  # a pool calls from threads, and what it calls has a process to itself otherwise


def _call_here(pool: Any, task: Any) -> Any:
    """What a worker would answer, without the second that an interpreter takes to start."""
    factory, setup = pool._target
    with _TURN:
        if not hasattr(pool, "here"):
            pool.here = workers.find_callable(factory)(*setup)
        return pool.here(task)


@pytest.fixture(scope="module", autouse=True)
def pools_in_this_process() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers.Pool, "_call", _call_here)
        yield


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pools start processes, as they do for users."""
    monkeypatch.setattr(workers.Pool, "_call", _CALL)


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_text(tmp_path_factory.mktemp("text") / "some.txt", documents(300))


@pytest.fixture(scope="session")
def tokenizer_folder(text_file: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("tokenizer") / "wordpiece"
    train_tokenizer(TokenizerOptions(input=(text_file,), out=str(out), vocab=200, workers=1))
    return str(out)


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> int:
    """Units of two kilobytes, so that small files have many."""
    monkeypatch.setattr("bertjax.data.streams.BLOCK", 2000)
    return 2000

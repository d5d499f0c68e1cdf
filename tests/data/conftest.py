"""One small tokenizer for all tests of the data path."""

import pytest

from bertjax.data.tokenizer import TokenizerOptions, train_tokenizer
from tests.data.corpora import documents, write_text


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

"""Compiled programs are kept, found again, and compute the same; what is not whole is not used."""

import pathlib
from collections.abc import Iterator

import jax
import pytest
from jax._src.lru_cache import LRUCache
from jax.experimental.compilation_cache import compilation_cache
from runs import assert_equal, final_state, records, tiny

from bertjax import compiled
from bertjax.compiled import kept
from bertjax.config import fingerprint
from bertjax.train import train


@pytest.fixture
def no_cache() -> Iterator[None]:
    """Whatever cache other tests share is out of use."""
    before = jax.config.jax_compilation_cache_dir
    use(None)
    yield
    left = jax.config.jax_compilation_cache_dir
    use(before)
    assert left is None, "it was left in force"


def use(where: str | None) -> None:
    jax.config.update("jax_compilation_cache_dir", where)
    compilation_cache.reset_cache()


@pytest.mark.usefixtures("no_cache")
def test_a_second_start_is_the_first_bit_by_bit(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With entries that another start has written, one of them in part: that one is compiled again, without a word."""
    found: list[bool] = []
    get = LRUCache.get

    def watched(cache: LRUCache, key: str) -> bytes | None:
        value = get(cache, key)
        found.append(value is not None)
        return value

    monkeypatch.setattr(LRUCache, "get", watched)
    monkeypatch.setattr(compiled, "LEAST", 0.0)
    settings = ("train.steps=4", "data.threads=0", f"train.compiled={tmp_path / 'kept'}")
    train(tiny(*settings), str(tmp_path / "first"))
    entries = {path: path.read_bytes() for path in (tmp_path / "kept").rglob("*-cache")}
    steps = [path for path in entries if path.name.startswith("jit_step-")]
    assert len(steps) == 2 and not any(found)  # of training and of evaluation
    steps[0].write_bytes(entries[steps[0]][:1000])
    found.clear()
    train(tiny(*settings), str(tmp_path / "second"))
    assert sorted(found) == [False, True, True]  # the step cut short; the other one, and what makes the state
    assert set((tmp_path / "kept").rglob("*-cache")) == set(entries)
    assert len(steps[0].read_bytes()) > 1000
    assert records(tmp_path / "first") == records(tmp_path / "second")
    assert_equal(final_state(tmp_path / "first"), final_state(tmp_path / "second"))


@pytest.mark.usefixtures("no_cache")
def test_where_it_is_kept(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with kept(tmp_path / "compiled"):
        folder = pathlib.Path(jax.config.jax_compilation_cache_dir)
    assert folder.parent == tmp_path / "compiled" and folder.name.startswith("cpu-")
    monkeypatch.setattr(compiled, "instructions", lambda: "a CPU that knows fewer")
    with kept(tmp_path / "compiled"):
        assert jax.config.jax_compilation_cache_dir not in (
            None,
            str(folder),
        )  # code for the other may end a process
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiled.machine() == "gpu"  # whose kind is part of the key


@pytest.mark.usefixtures("no_cache")
def test_off_and_another(tmp_path: pathlib.Path) -> None:
    with kept(None):
        assert jax.config.jax_compilation_cache_dir is None
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    with kept(tmp_path / "compiled"):
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")
    assert not (tmp_path / "compiled").exists()
    jax.config.update("jax_compilation_cache_dir", None)


@pytest.mark.usefixtures("no_cache")
def test_a_folder_that_cannot_be(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ValueError, match="set train.compiled to another folder, or to none") as caught,
        kept(tmp_path / "file"),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_it_decides_nothing() -> None:
    assert fingerprint(tiny("train.compiled=none"), "") == fingerprint(tiny(), "")

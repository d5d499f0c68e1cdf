"""Safetensors are read as their own library writes them, and refused by name where they are broken."""

import json
import pathlib
import struct
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from bertjax.convert.readers import open_weights
from tests.convert.broken import fuzz, read_all, refused, same


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    real = draw.standard_normal((5, 7))
    whole = draw.integers(-9, 9, (2, 3, 4))
    found = {np.dtype(dtype).name: real.astype(dtype) for dtype in ("f8", "f4", "f2", ml_dtypes.bfloat16)}
    found |= {np.dtype(dtype).name: whole.astype(dtype) for dtype in ("i8", "i4", "i2", "i1", "u1", "bool")}
    return found | {"scalar": np.full((), 2.5, np.float32), "empty": np.zeros((0, 3), np.float32)}


def packed(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(content) if length is None else length) + content + body


def described(shape: Any = (2,), dtype: Any = "F32", offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize("whole", [True, False], ids=["folder", "file"])
def test_what_the_library_wrote(tmp_path: pathlib.Path, whole: bool) -> None:
    save_file = pytest.importorskip("safetensors.numpy").save_file
    expected = tensors()
    save_file(expected, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert same(read_all(tmp_path if whole else tmp_path / "model.safetensors"), expected)


def test_a_file_is_as_large_as_models_are(tmp_path: pathlib.Path) -> None:
    size = 300_000_000  # the product of two offsets is past what numpy could number
    header = {name: described((size,), "U8", (i * size, (i + 1) * size)) for i, name in enumerate("ab")}
    with (tmp_path / "model.safetensors").open("wb") as file:
        begin = file.write(packed(header))
        file.truncate(begin + 2 * size)  # a hole: it takes no room on the disk
    weights = open_weights(str(tmp_path / "model.safetensors"))
    assert weights["b"].shape == (size,)


def test_opening_reads_no_tensor(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(packed({"a": described(), "b": described((3, 1), "I16", (8, 14))}, b"\1" * 14))
    weights = open_weights(str(path))
    assert weights.kind == "safetensors" and list(weights) == ["a", "b"] and len(weights) == 2
    assert weights["b"].shape == (3, 1) and weights["b"].dtype == np.int16 and "c" not in weights
    path.write_bytes(packed({"a": described(), "b": described((3, 1), "I16", (8, 14))}, b"\1" * 13))
    assert weights.read("a").tobytes() == b"\1" * 8
    with refused("model.safetensors", "became shorter"):
        weights.read("b")


BROKEN = {
    "empty": (b"", "has 0 bytes"),
    "no header": (b"\1\0\0", "has 3 bytes"),
    "header too long": (packed({"a": described()}, b"\0" * 8, length=1 << 60), "claims a header of"),
    "header too short": (packed({"a": described()}, b"\0" * 8, length=9), "has no safetensors header"),
    "header not UTF-8": (packed(b'{"\xff": 1}'), "has no safetensors header"),
    "header too deep": (packed(b"[" * 100_000), "has no safetensors header"),
    "header a list": (packed([]), "it is not an object"),
    "a name twice": (packed(b'{"a": 1, "a": 1}'), "twice"),
    "cut off": (packed({"a": described()}, b"\0" * 7), "is cut off: it has 7 bytes"),
    "too long": (packed({"a": described()}, b"\0" * 9), "is longer than its tensors"),
    "overlap": (packed({"a": described(), "b": described(offsets=(4, 12))}, b"\0" * 12), "'b' at 4 overlaps"),
    "gap": (packed({"a": described(), "b": described(offsets=(9, 17))}, b"\0" * 17), "'b' at 9 leaves a gap"),
    "late start": (packed({"a": described(offsets=(1, 9))}, b"\0" * 9), "'a' at 1 leaves a gap"),
    "backwards": (packed({"a": described((0,), offsets=(8, 0))}, b"\0" * 8), "takes -8 bytes, not 0"),
    "other size": (packed({"a": described((3,))}, b"\0" * 8), "takes 8 bytes, not 12"),
    "unknown dtype": (packed({"a": described(dtype="F4")}, b"\0" * 8), "in 'F4', which is not one of BOOL"),
    "no dtype": (packed({"a": described(dtype=[])}, b"\0" * 8), "in [], which is not"),
    "negative size": (packed({"a": described((-2,))}, b"\0" * 8), "has the shape [-2]"),
    "huge size": (packed({"a": described((1 << 40, 1 << 40))}, b"\0" * 8), "has the shape"),
    "many dims": (packed({"a": described((1,) * 99)}, b"\0" * 8), "has the shape"),
    "shape of a boolean": (packed({"a": described((True, 2))}, b"\0" * 8), "has the shape [True, 2]"),
    "offsets of floats": (
        packed({"a": described(offsets=(0.0, 8.0))}, b"\0" * 8),
        "has the offsets [0.0, 8.0]",
    ),
    "three offsets": (packed({"a": described(offsets=(0, 8, 8))}, b"\0" * 8), "has the offsets"),
    "no description": (packed({"a": 3}, b"\0" * 8), "in None, which is not"),
    "a name of two lines": (packed({"a\nb" * 999: described((3,))}, b"\0" * 8), r"a\nb"),
    "a pointer of Git": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run git lfs pull"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files(tmp_path: pathlib.Path, case: str) -> None:
    content, message = BROKEN[case]
    (tmp_path / "model.safetensors").write_bytes(content)
    with refused(str(tmp_path / "model.safetensors"), message):
        open_weights(str(tmp_path))


def test_random_changes(tmp_path: pathlib.Path) -> None:
    header = {"embed.weight": described((2, 3), "F16", (0, 12)), "b": described((3,), "BF16", (12, 18))}
    path = tmp_path / "model.safetensors"
    path.write_bytes(packed(header, bytes(range(18))))
    assert fuzz(path, 300, seed=1) > 150


def sharded(folder: pathlib.Path) -> dict[str, str]:
    """Two shards with an index, which is returned."""
    (folder / "one.safetensors").write_bytes(
        packed({"a": described(), "b": described(offsets=(8, 16))}, b"\1" * 16)
    )
    (folder / "two.safetensors").write_bytes(packed({"c": described()}, b"\2" * 8))
    files = {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return files


def test_shards(tmp_path: pathlib.Path) -> None:
    sharded(tmp_path)
    for path in (tmp_path, tmp_path / "model.safetensors.index.json"):
        found = read_all(path)
        assert {name: array.tobytes() for name, array in found.items()} == {
            "a": b"\1" * 8,
            "b": b"\1" * 8,
            "c": b"\2" * 8,
        }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"c": "three.safetensors"},
            "names the shard three.safetensors, which is not there: fetch that file",
        ),
        ({"d": "one.safetensors"}, "says that 'd' is in one.safetensors, but it is in None"),
        ({"b": None}, "says that 'b' is in None, but it is in one.safetensors"),
        ({"b": "two.safetensors"}, "says that 'b' is in two.safetensors, but it is in one"),
        ({"c": "../two.safetensors"}, "puts 'c' into '../two.safetensors', which is no file name"),
        ({"c": "/etc/passwd"}, "is no file name"),
        ({"c": 3}, "puts 'c' into 3"),
    ],
)
def test_shards_that_do_not_fit(tmp_path: pathlib.Path, changes: dict[str, Any], message: str) -> None:
    files = sharded(tmp_path) | changes
    named = {name: file for name, file in files.items() if file is not None}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))
    with refused(str(tmp_path / "model.safetensors.index.json"), message):
        open_weights(str(tmp_path))


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"weight_map": {}}', '{"weight_map": []}', "[" * 99999])
def test_an_index_that_is_none(tmp_path: pathlib.Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with refused("model.safetensors.index.json"):
        open_weights(str(tmp_path))


def test_a_folder_without_weights(tmp_path: pathlib.Path) -> None:
    with refused(f"{tmp_path} holds no weights", "model.safetensors"):
        open_weights(str(tmp_path))
    with refused("nowhere.safetensors cannot be read (No such file or directory)"):
        open_weights(str(tmp_path / "nowhere.safetensors"))

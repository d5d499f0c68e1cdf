"""TensorFlow's checkpoints are read without TensorFlow, from a folder and from a zip, and each damage is seen."""

import pathlib
import struct
import zipfile
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from bertjax.convert.readers import open_weights, unpacked
from bertjax.convert.readers.crc32c import crc32c, masked
from tests.convert import tensorflow_writer as writer
from tests.convert.broken import fuzz, read_all, refused, same


def samples() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    found = {
        f"all/{name}": draw.integers(0, 2, (3, 2)).astype(name)
        for name in writer.DTYPES
        if name != "bfloat16"
    }
    for layer in range(12):
        found[f"bert/encoder/layer_{layer}/attention/self/query/kernel"] = draw.standard_normal(
            (4, 6)
        ).astype("f4")
        found[f"bert/encoder/layer_{layer}/attention/self/query/bias"] = draw.standard_normal(6).astype("f4")
    found["bert/embeddings/word_embeddings"] = draw.standard_normal((53, 4)).astype(ml_dtypes.bfloat16)
    return found | {"global_step": np.full((), 1 << 40, np.int64), "empty": np.zeros((0, 3), np.float32)}


@pytest.mark.parametrize("shards", [1, 3])
def test_a_checkpoint(tmp_path: pathlib.Path, shards: int) -> None:
    writer.write(tmp_path / "bert_model.ckpt", samples(), shards=shards)
    for path in (tmp_path, tmp_path / "bert_model.ckpt", tmp_path / "bert_model.ckpt.index"):
        assert same(read_all(path), samples())


@pytest.mark.parametrize("folder", ["", "uncased_L-12_H-768_A-12/"])
def test_the_published_zip(tmp_path: pathlib.Path, folder: str) -> None:
    writer.write(tmp_path / "bert_model.ckpt", samples())
    with zipfile.ZipFile(tmp_path / "bert.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(tmp_path.glob("bert_model.ckpt.*")):
            archive.write(file, f"{folder}{file.name}")
        archive.writestr(f"{folder}vocab.txt", "[PAD]\n")
    assert same(read_all(tmp_path / "bert.zip"), samples())
    with open_weights(str(tmp_path / "bert.zip")) as weights:
        place = pathlib.Path(weights.path).parent
        assert place.exists()
    assert not place.exists()
    with unpacked(str(tmp_path / "bert.zip")) as found:
        assert (pathlib.Path(found) / "vocab.txt").read_text() == "[PAD]\n"
        assert same(read_all(found), samples())
    assert not pathlib.Path(found).exists()
    with unpacked(str(tmp_path)) as found:
        assert found == str(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../evil", "climbs out"),
        ("/evil", "climbs out"),
        ("a/../../evil", "climbs out"),
        ("a\\..\\..\\evil", "climbs"),
    ],
)
def test_a_zip_that_climbs_out(tmp_path: pathlib.Path, name: str, message: str) -> None:
    with zipfile.ZipFile(tmp_path / "bert.zip", "w") as archive:
        archive.writestr("bert_model.ckpt.index", b"")
        archive.writestr(zipfile.ZipInfo(name), b"evil")
    for opened in (open_weights, lambda path: unpacked(path).__enter__()):
        with refused("bert.zip", message):
            opened(str(tmp_path / "bert.zip"))
    assert [file.name for file in tmp_path.iterdir()] == ["bert.zip"]


def test_zips_without_a_checkpoint(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "bert.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", b"nothing")
    with refused(f"{path} holds no weights"):
        open_weights(str(path))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bert_model.ckpt.data-00000-of-00001", bytes(1 << 27))
    with refused(str(path), "claims to hold 134,217,728 bytes in 130,"):
        open_weights(str(path))
    writer.write(tmp_path / "bert_model.ckpt", {"a": np.arange(500, dtype=np.int32)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in tmp_path.glob("bert_model.ckpt.*"):
            archive.write(file, file.name)
    content = path.read_bytes()
    assert len(read_all(path)) == 1
    path.write_bytes(content[:200] + bytes([content[200] ^ 8]) + content[201:])
    with refused(str(path)):
        open_weights(str(path))


def test_several_checkpoints_in_a_folder(tmp_path: pathlib.Path) -> None:
    for step in (100, 200):
        writer.write(tmp_path / f"model.ckpt-{step}", {"step": np.full((), step, np.int64)})
    with refused(str(tmp_path), "holds 2 checkpoints (model.ckpt-100, model.ckpt-200): name one of them"):
        open_weights(str(tmp_path))
    assert read_all(tmp_path / "model.ckpt-100")["step"] == 100
    (tmp_path / "checkpoint").write_text(
        'model_checkpoint_path: "/gone/model.ckpt-200"\nall_model_paths: "x"\n'
    )
    assert read_all(tmp_path)["step"] == 200


def test_every_byte_is_guarded(tmp_path: pathlib.Path) -> None:
    """A changed byte is refused, or lies where nothing is said."""
    expected = {
        "a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a/bias": np.arange(3, dtype=np.float32),
    }
    writer.write(tmp_path / "m.ckpt", expected)
    unguarded = 0
    for path in (tmp_path / "m.ckpt.index", tmp_path / "m.ckpt.data-00000-of-00001"):
        content = path.read_bytes()
        for at in range(len(content)):
            path.write_bytes(content[:at] + bytes([content[at] ^ 0x41]) + content[at + 1 :])
            try:
                assert same(read_all(tmp_path), expected), at
                unguarded += 1
            except ValueError as error:
                assert str(tmp_path / "m.ckpt") in str(error) and "\n" not in str(error)
        for length in range(len(content)):
            path.write_bytes(content[:length])
            with refused(str(path)):
                read_all(tmp_path)
        path.write_bytes(content)
    assert unguarded < 60  # the padding of the footer, and the block in which a table says nothing of itself


def entries(**changes: Any) -> bytes:
    """An index of one tensor whose fields are changed."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    fields = {
        "dtype": writer.field(1, 1),
        "shape": writer.field(2, writer.field(2, writer.field(1, 2)) + writer.field(2, writer.field(1, 3))),
        "shard": b"",
        "offset": b"",
        "size": writer.field(5, 24),
        "sum": b"\x35" + struct.pack("<I", writer.checksum(array.tobytes())),
    }
    described = b"".join(
        (fields | {name: value for name, value in changes.items() if name in fields}).values()
    )
    head, key = changes.get("head", writer.header(1)), changes.get("key", b"a")
    items = [(b"", head), (key, described), *changes.get("more", [])]
    return writer.table(items, per_block=2, compression=changes.get("compression", 0))


def dims(*sizes: int) -> bytes:
    return writer.field(2, b"".join(writer.field(2, writer.field(1, size)) for size in sizes))


INTACT = writer.table([(b"", writer.header(1))])
INDICES = {
    "empty": (b"", "its last bytes are not those of a table"),
    "text": (b"model_checkpoint_path" * 9, "its last bytes are not those of a table"),
    "footer alone": (b"\0" * 40 + struct.pack("<Q", writer.MAGIC), "a block lies past its end"),
    "block far away": (
        b"\xff" * 9 + b"\1" * 31 + struct.pack("<Q", writer.MAGIC),
        "a block lies past its end",
    ),
    "endless number": (b"\xff" * 40 + struct.pack("<Q", writer.MAGIC), "a number is too long"),
    "compressed": (entries(compression=1), "it is compressed"),
    "high byte first": (entries(head=writer.header(1, high_first=True)), "the high byte first"),
    "no files": (entries(head=b""), "it tells of 0 data files"),
    "many files": (entries(head=writer.header(1 << 40)), "it tells of 1099511627776 data files"),
    "missing file": (entries(head=writer.header(2)), "m.ckpt.data-00000-of-00002 cannot be read"),
    "nothing": (INTACT, "holds no tensors of numbers"),
    "text alone": (entries(dtype=writer.field(1, 7)), "holds no tensors of numbers"),
    "complex": (entries(dtype=writer.field(1, 8)), "has 'a' in dtype 8, which is not one of float32"),
    "file out of range": (entries(shard=writer.field(3, 1)), "puts 'a' into file 1 of 1"),
    "past the end": (entries(offset=writer.field(4, 1)), "is cut off: 'a' ends at 25 of 24 bytes"),
    "far past the end": (entries(offset=writer.field(4, 1 << 62)), "is cut off: 'a' ends at"),
    "other size": (entries(size=writer.field(5, 20)), "float32 [2, 3], takes 20 bytes, not 24"),
    "other shape": (entries(shape=dims(2, 2)), "takes 24 bytes, not 16"),
    "negative shape": (entries(shape=dims(2, -3)), "has the shape [2, 18446744073709551613]"),
    "huge shape": (entries(shape=dims(1 << 47, 1 << 47)), "has the shape"),
    "unknown shape": (entries(shape=writer.field(2, writer.field(3, 1))), "a shape is unknown"),
    "slices": (entries(sum=writer.field(7, b"")), "has 'a' in slices: restore it"),
    "other checksum": (entries(sum=b""), "the checksum of 'a' differs"),
    "odd field": (entries(sum=b"\x33"), "a field of an unknown kind"),
    "long field": (entries(sum=b"\x3a\x7f"), "a value is longer than what is left"),
    "not UTF-8": (entries(key=b"\xff"), "a name is not UTF-8"),
    "out of order": (entries(more=[(b"Z", b"")]), "its keys are not in order"),
    "twice": (entries(more=[(b"a", b"")]), "its keys are not in order"),
}


@pytest.mark.parametrize("case", INDICES)
def test_broken_indices(tmp_path: pathlib.Path, case: str) -> None:
    content, message = INDICES[case]
    (tmp_path / "m.ckpt.index").write_bytes(content)
    (tmp_path / "m.ckpt.data-00000-of-00001").write_bytes(np.arange(6, dtype=np.float32).tobytes())
    with refused(str(tmp_path / "m.ckpt"), message):
        read_all(tmp_path)
    (tmp_path / "m.ckpt.index").write_bytes(entries())
    assert read_all(tmp_path)["a"].shape == (2, 3)


def test_random_changes(tmp_path: pathlib.Path) -> None:
    arrays = {f"layer_{layer}/kernel": np.full((2, 3), layer, np.float32) for layer in range(9)}
    writer.write(tmp_path / "m.ckpt", arrays)
    assert fuzz(tmp_path / "m.ckpt.index", 300, seed=3, read=lambda: read_all(tmp_path)) > 250
    with zipfile.ZipFile(tmp_path / "m.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in tmp_path.glob("m.ckpt.*"):
            archive.write(file, file.name)
    assert fuzz(tmp_path / "m.zip", 300, seed=4) > 150


def test_random_tables_behind_right_checksums(tmp_path: pathlib.Path) -> None:
    """Checksums keep most damage from the parser; here it meets changed blocks whose checksums are right."""
    draw = np.random.default_rng(5)
    arrays = {f"layer_{layer}/kernel": np.full((2, 3), layer, np.float32) for layer in range(9)}
    items = [(b"", writer.header(1))]
    items += [(name.encode(), writer.entry(array, 0, 0, array.tobytes())) for name, array in arrays.items()]
    (tmp_path / "m.ckpt.data-00000-of-00001").write_bytes(bytes(24))
    refusals = 0
    for _ in range(300):
        changed = bytearray(writer.block(items, 3))
        for _ in range(int(draw.integers(1, 4))):
            changed[int(draw.integers(len(changed)))] = int(
                draw.choice([0, 1, 0x7F, 0x80, 0xFF, draw.integers(256)])
            )
        handles = writer.block([(b"z", writer.varint(0) + writer.varint(len(changed)))], 1)
        content = b""
        for piece in (bytes(changed), handles):
            content += piece + b"\0" + struct.pack("<I", writer.checksum(piece + b"\0"))
        footer = writer.varint(0) * 2 + writer.varint(len(changed) + 5) + writer.varint(len(handles))
        footer = footer.ljust(40, b"\0") + struct.pack("<Q", writer.MAGIC)
        (tmp_path / "m.ckpt.index").write_bytes(content + footer)
        try:
            open_weights(str(tmp_path))
        except ValueError as error:
            assert "\n" not in str(error) and len(str(error)) < 500
            refusals += 1
    assert refusals > 100


@pytest.mark.parametrize("size", [*range(12), 63, 64, 65, 1000, 65535, 65536, 65537, 131075, 200003])
def test_checksum(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    expected = writer.checksum(data)
    assert masked(crc32c(data)) == expected == masked(crc32c(np.frombuffer(b"x" + data, np.uint8)[1:]))


def test_checksum_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283 and crc32c(bytes(32)) == 0x8A9136AA and crc32c(b"") == 0


@pytest.mark.filterwarnings("ignore")
def test_what_tensorflow_wrote(tmp_path: pathlib.Path) -> None:
    tensorflow = pytest.importorskip("tensorflow", reason="compares with TensorFlow where it is installed")
    expected = {name: array for name, array in samples().items() if "uint" not in name}
    old = tensorflow.compat.v1
    with tensorflow.Graph().as_default(), old.Session() as session:
        variables = [old.get_variable(name, initializer=array) for name, array in expected.items()]
        variables.append(old.get_variable("words", initializer=tensorflow.constant(["a", "b"])))
        session.run(old.global_variables_initializer())
        old.train.Saver(variables).save(session, str(tmp_path / "bert_model.ckpt"))
    assert same(read_all(tmp_path), expected)
    kernel = tensorflow.Variable(expected["bert/encoder/layer_3/attention/self/query/kernel"])
    written = tensorflow.train.Checkpoint(model=tensorflow.train.Checkpoint(kernel=kernel)).write(
        str(tmp_path / "new")
    )
    found = read_all(written)["model/kernel/.ATTRIBUTES/VARIABLE_VALUE"]
    np.testing.assert_array_equal(found, kernel.numpy())
    big = {f"layer_{n}/{'long_name/' * 9}kernel": np.full((2, 3), n, np.float32) for n in range(999)}
    with tensorflow.Graph().as_default(), old.Session() as session:
        variables = [old.get_variable(name, initializer=array) for name, array in big.items()]
        session.run(old.global_variables_initializer())
        old.train.Saver(variables, sharded=True).save(session, str(tmp_path / "big"))
    assert same(read_all(tmp_path / "big"), big)

"""Files of torch.save are read without PyTorch, equal to what it reads, and nothing in them is ever run."""

import functools
import json
import os
import pathlib
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from bertjax.convert.readers import open_weights
from tests.convert.broken import fuzz, read_all, refused, same
from tests.convert.torch_writer import (
    STORAGES,
    call,
    named,
    program,
    push,
    samples,
    state_dict,
    stored,
    tensor,
    whole,
    write,
    write_stream,
    write_zip,
)


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "pytorch_model.bin"


FORMATS = pytest.mark.parametrize("stream", [False, True], ids=["zip", "stream"])


@FORMATS
def test_every_dtype(path: pathlib.Path, stream: bool) -> None:
    expected = samples()
    write(path, expected, stream=stream)
    assert same(read_all(path), expected) and same(read_all(path.parent), expected)


NUMBERS = np.arange(60, dtype=np.float32)
VIEWS = {
    "whole": (0, (5, 12), (12, 1)),
    "transposed": (0, (12, 5), (1, 12)),
    "part": (7, (3, 4), (12, 1)),
    "every second": (1, (5, 6), (12, 2)),
    "repeated": (3, (4, 2), (0, 1)),
    "three": (2, (2, 3, 4), (24, 1, 6)),
    "one": (59, (), ()),
    "none": (60, (0, 5), (5, 1)),
}


@FORMATS
def test_views(path: pathlib.Path, stream: bool) -> None:
    more = (None,) if stream else ()
    views = {name: tensor(stored("float32", "0", 60, *more), *view) for name, view in VIEWS.items()}
    if stream:
        write_stream(path, state_dict(views), {"0": (60, NUMBERS.tobytes())})
    else:
        write_zip(path, state_dict(views), {"0": NUMBERS.tobytes()})
    found = read_all(path)
    for name, (offset, shape, strides) in VIEWS.items():
        index = offset + sum(
            (axis * stride for axis, stride in zip(np.indices(shape), strides, strict=True)),
            np.zeros(shape, int),
        )
        np.testing.assert_array_equal(
            found[name], NUMBERS[index] if 0 not in shape else np.zeros(shape), name
        )
        assert found[name].flags.c_contiguous


def test_parts_of_a_storage(path: pathlib.Path) -> None:
    part = tensor(stored("float32", "0", 60, ("1", 10, 20)), 3, (4,), (1,))
    write_stream(path, state_dict({"a": part}), {"0": (60, NUMBERS.tobytes())})
    assert read_all(path)["a"].tolist() == [13, 14, 15, 16]
    for bad in (("1", 50, 20), ("1", -1, 20), ("1", 1), ("1", "2", 3)):
        part = tensor(stored("float32", "0", 60, bad), 3, (4,), (1,))
        write_stream(path, state_dict({"a": part}), {"0": (60, NUMBERS.tobytes())})
        with refused("a part of storage '0'"):
            open_weights(str(path))


def test_high_byte_first(path: pathlib.Path) -> None:
    for dtype in ("float32", "bfloat16", "bool"):
        array = samples()[dtype]
        swapped = array.view(f"u{array.itemsize}").byteswap().tobytes()
        write_zip(path, state_dict({"a": whole(array, "0")}), {"0": swapped}, {"byteorder": b"big"})
        assert same(read_all(path), {"a": array})


def test_the_first_versions_of_torch(path: pathlib.Path) -> None:
    array = samples()["float32"]
    storage = stored("float32", "0", array.size, None, kind=named("torch.cuda.FloatStorage"))
    old = call("torch._utils._rebuild_tensor", storage, 0, array.shape, (3, 1))
    parameter = call("torch._utils._rebuild_parameter", old, True, call("collections.OrderedDict"))
    pairs = push([[b"U\1a", parameter], (b"U\1b", old)])  # Python 2 wrote pairs, and text as bytes
    pickled = named("collections.OrderedDict") + b"(" + pairs + b"tR"
    write_stream(path, pickled, {"0": (array.size, array.tobytes())})
    assert same(read_all(path), {"a": array, "b": array})


def test_shards(path: pathlib.Path) -> None:
    expected = samples()
    names = list(expected)
    files = {name: f"pytorch_model-0000{1 + number % 2}-of-00002.bin" for number, name in enumerate(names)}
    for file in set(files.values()):
        write(
            path.parent / file, {name: expected[name] for name in names if files[name] == file}, stream=False
        )
    (path.parent / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
    assert same(read_all(path.parent), expected)


# ------------------------------------------------------------------------------------- nothing is run


class Run:
    """Pickles to a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


def attacks(marker: str) -> dict[str, tuple[Any, str]]:
    """What runs when Python's own unpickler reads it, and the name by which it is refused."""
    touch = f"open({marker!r}, 'w').close()"
    return {
        "system": (Run(os.system, f"touch {marker}"), f"{os.name}.system"),
        "popen": (Run(subprocess.Popen, ["touch", marker]), "subprocess.Popen"),
        "eval": (Run(eval, touch), "builtin"),
        "exec": (Run(exec, touch), "builtin"),
        "getattr": (Run(getattr, Run(__import__, "os"), "system"), "builtin"),
        "partial": (functools.partial(open, marker, "w"), "functools.partial"),
        "open": (Run(open, marker, "w"), "open"),
        "array": (np.arange(3), "wants numpy."),
        "scalar": (np.float64(3), "wants numpy."),
        "class": (pathlib.Path, "Path"),
        "object": (argparse_namespace(), "wants "),
        "set": ({Run(os.system, f"touch {marker}")}, ""),
        "subclass": (type(sys.implementation)(a=1), "wants "),
    }


def argparse_namespace() -> Any:
    import argparse

    return argparse.Namespace(lr=1)


ATTACKS = list(attacks(""))


@FORMATS
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("attack", ATTACKS)
def test_what_wants_to_run_is_refused(path: pathlib.Path, attack: str, protocol: int, stream: bool) -> None:
    marker = str(path.parent / "was_run")
    value, name = attacks(marker)[attack]
    pickled = pickle.dumps({"weight": value}, protocol, fix_imports=False)
    pickled = pickled[2:-1] if protocol >= 2 else pickled[:-1]
    if stream:
        write_stream(path, pickled, {})
    else:
        write_zip(path, pickled, {})
    with refused(str(path), name):
        open_weights(str(path))
    assert not os.path.exists(marker)


def test_the_attacks_are_real(tmp_path: pathlib.Path) -> None:
    for attack in ("system", "popen", "eval", "exec"):
        marker = tmp_path / attack
        found = pickle.loads(pickle.dumps(attacks(str(marker))[attack][0]))
        if isinstance(found, subprocess.Popen):
            found.wait()
        assert marker.exists(), attack


PIECE = tensor(stored("float32", "0", 60), 0, (60,), (1,))
STATE = call("collections.OrderedDict")
PROGRAMS = {
    "attribute of a name": (
        named("collections.OrderedDict.fromkeys"),
        "wants collections.OrderedDict.fromkeys",
    ),
    "dotted name": (
        push("collections") + push("OrderedDict.fromkeys") + b"\x93",
        "wants collections.OrderedDict.from",
    ),
    "module of torch": (call("torch.load", "x"), "wants torch.load"),
    "class of torch": (named("torch.nn.modules.linear.Linear"), "wants torch.nn.modules.linear.Linear"),
    "a name of lines": (push("a\nb") + push("c" * 999) + b"\x93", r"wants a\nb.c"),
    "name that is no text": (push(1) + push("a") + b"\x93", "a name that is no text"),
    "call of a type": (call("torch.FloatStorage", 10**9), "it calls torch.FloatStorage"),
    "call of text": (push("os.system") + push(("ls",)) + b"R", "it calls a str"),
    "call without a tuple": (
        named("collections.OrderedDict") + push([]) + b"R",
        "it calls collections.OrderedDict",
    ),
    "new object": (named("collections.OrderedDict") + b")\x81", "an object of a class"),
    "new object by name": (b"(icollections\nOrderedDict\n", "an object of a class"),
    "attributes of a tensor": (PIECE + push({"a": 1}) + b"b", "sets attributes of a View"),
    "a class as id": (push(("module", "Net", "net.py", "source")) + b"Q", "wants a pickled class"),
    "an extension": (b"\x82\1", r"instruction b'\x82'"),
    "a buffer": (b"\x97", r"instruction b'\x97'"),
    "stack too short": (b"R", "IndexError"),
    "no mark": (b"t", "IndexError"),
    "value that was never kept": (b"h\1", "KeyError"),
    "two values": (b"NN", "ValueError"),
    "nothing": (b"", "ValueError"),
    "append to a dict": (push({}) + b"Na", "appends to a dict"),
    "item of a list": (push([]) + b"NNs", "sets items of a list"),
    "odd items": (b"}(Nu", "ValueError"),
    "key that is a tuple": (b"})Ns", "a tuple as the key of a dict"),
    "text that is too long": (b"X\xff\xff\xff\x7fa", "is cut off inside its pickle"),
    "bytes that are too long": (b"\x8e" + b"\xff" * 8, "is cut off inside its pickle"),
    "number that is too long": (b"\x8b\xff\xff\xff\x7f", "is cut off inside its pickle"),
    "text that is not UTF-8": (b"X\1\0\0\0\xff", "UnicodeDecodeError"),
    "line without end": (b"Iabc", "is cut off inside its pickle"),
    "line without number": (b"Iabc\n", "ValueError"),
    "digits without end": (b"I" + b"9" * 9999 + b"\n", "ValueError"),
    "list": (push([1]), "holds a list, not tensors by name"),
    "empty": (STATE, "holds nothing, not tensors by name"),
    "training checkpoint": (push({"epoch": 3, "a": PIECE}), "holds more than tensors by name ('epoch': int)"),
    "nested": (push({"model": STATE}), "('model': dict): is it a training checkpoint?"),
    "numbered": (push({3: PIECE}), "(a number: View)"),
    "id that is text": (push("0") + b"Q", "refers to something that is no storage"),
    "id of another kind": (
        push(("tensor", 1, "0", "cpu", 1)) + b"Q",
        "refers to something that is no storage",
    ),
    "id without a type": (stored("", "0", 60, kind=push("FloatStorage")), "a storage without type or key"),
    "id with a function": (stored("", "0", 6, kind=named("collections.OrderedDict")), "without type or key"),
    "id with a size below 0": (stored("float32", "0", -1), "with a size that is none"),
    "tensor of text": (tensor(push("0"), 0, (1,), (1,)), "a tensor without storage"),
    "other dimensions": (
        tensor(stored("float32", "0", 60), 0, (1, 2), (1,)),
        "a tensor without storage, shape",
    ),
    "negative size": (tensor(stored("float32", "0", 60), 0, (-1,), (1,)), "a tensor without storage, shape"),
    "negative stride": (
        tensor(stored("float32", "0", 60), 9, (2,), (-1,)),
        "a tensor without storage, shape",
    ),
    "huge size": (
        tensor(stored("float32", "0", 60), 0, (1 << 40, 1 << 40), (0, 0)),
        "a tensor without storage",
    ),
    "negative offset": (tensor(stored("float32", "0", 60), -1, (1,), (1,)), "begins nowhere"),
    "parameter of text": (
        call("torch._utils._rebuild_parameter", "a", True, {}),
        "a parameter that is no tensor",
    ),
    "past the end": (push({"a": tensor(stored("float32", "0", 60), 1, (60,), (1,))}), "61 of 60 elements"),
    "stride past the end": (push({"a": tensor(stored("float32", "0", 60), 0, (5, 5), (14, 1))}), "61 of 60"),
    "more than is stored": (
        push({"a": tensor(stored("float32", "0", 61), 0, (1,), (1,))}),
        "but there is 240 bytes",
    ),
    "wider than is stored": (
        push({"a": tensor(stored("int64", "0", 60), 0, (1,), (1,))}),
        "but there is 240 bytes",
    ),
    "no storage": (push({"a": tensor(stored("float32", "9", 60), 0, (1,), (1,))}), "but there is nothing"),
    "grown out of nothing": (
        push({"a": tensor(stored("float32", "0", 60), 0, (1 << 40,), (0,))}),
        "'a' repeats 240",
    ),
    "conjugate": (
        call(
            "torch._utils._rebuild_tensor_v2",
            stored("float32", "0", 60),
            0,
            (1,),
            (1,),
            False,
            {},
            {"conj": True},
        ),
        "conjugate",
    ),
}


@pytest.mark.parametrize("case", PROGRAMS)
def test_pickles_that_are_no_weights(path: pathlib.Path, case: str) -> None:
    pickled, message = PROGRAMS[case]
    write_zip(path, pickled, {"0": NUMBERS.tobytes()})
    with refused(str(path), message):
        open_weights(str(path))


def doubling(levels: int) -> Iterator[bytes]:
    """A tuple of twice a tuple of twice a tuple ... : small here, 2^levels to anyone who walks through it."""
    yield b")"
    for number in range(levels):
        yield b"q" + bytes([number]) + b"h" + bytes([number]) + b"\x86"


def test_small_pickles_that_would_grow(path: pathlib.Path) -> None:
    deep = b"".join(doubling(200))
    for pickled in (
        b"}" + deep + b"Ns",
        push({"a": deep}),
        deep,
        deep + b"Q",
        call("collections.OrderedDict", deep),
        call("torch._utils._rebuild_tensor_v2", deep, deep, deep, deep, deep, deep),
        call("torch._utils._rebuild_tensor_v2", stored("float32", "0", 60), 0, deep, deep, deep, deep),
        b"(" * 100_000,
        b"]" * 100_000 + b"a" * 99_999,
        b"r\xff\xff\xff\xff",
        b"Nr\xff\xff\xff\xff",
    ):
        write_zip(path, pickled, {"0": NUMBERS.tobytes()})
        with refused(str(path)):
            open_weights(str(path))
        write_stream(path, pickled, {})
        with refused(str(path)):
            open_weights(str(path))
    write_stream(path, STATE, {})
    path.write_bytes(path.read_bytes()[:-5] + program(push([deep])))
    with refused(str(path)):
        open_weights(str(path))


# ------------------------------------------------------------------------------------- zip files


def entry(name: str, *, link: bool = False) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (0o120777 if link else 0o100644) << 16
    return info


@pytest.mark.parametrize(
    ("added", "message"),
    [
        (entry("../evil"), "an entry '../evil' that climbs out"),
        (entry("archive/data/../../../evil"), "that climbs out"),
        (entry("/etc/cron.d/evil"), "that climbs out"),
        (entry("..\\evil"), "that climbs out"),
        (entry("C:/evil"), "that climbs out"),
        (entry("archive/link", link=True), "has a link, 'archive/link'"),
        (entry("archive/a\nb"), r"an entry with the name 'archive/a\nb'"),
        (entry("archive/data.pkl"), "has the entry 'archive/data.pkl' twice"),
        (entry("other/data.pkl"), "none that torch.save wrote"),
        (entry("archive/constants.pkl"), "is a TorchScript program"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_zips_with_odd_entries(path: pathlib.Path, added: zipfile.ZipInfo, message: str) -> None:
    write_zip(path, state_dict({"a": PIECE}), {"0": NUMBERS.tobytes()})
    assert read_all(path)["a"].tolist() == NUMBERS.tolist()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(added, b"evil")
    with refused(str(path), message):
        open_weights(str(path))


def test_compressed_storages_and_bombs(path: pathlib.Path) -> None:
    for size, message in ((240, "has 'archive/data/0' compressed"), (1 << 28, "claims to hold 268,")):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", program(state_dict({"a": PIECE})))
            archive.writestr("archive/data/0", bytes(size))
        with refused(str(path), message):
            open_weights(str(path))


def test_damaged_files(path: pathlib.Path) -> None:
    write_zip(path, state_dict({"a": PIECE}), {"0": NUMBERS.tobytes()})
    content = path.read_bytes()
    at = content.index(NUMBERS.tobytes()) + 7
    path.write_bytes(content[:at] + b"\xee" + content[at + 1 :])
    with refused(str(path), "the checksum of storage '0' differs"), open_weights(str(path)) as weights:
        weights.read("a")
    for broken, message in {
        content[:-1]: "is no zip file",
        content[: len(content) // 2]: "is no zip file",
        content[:4]: "is no zip file",
        b"": "is empty",
        b"\x80\x02}.": "was not written by torch.save",
        pickle.dumps({"a": 1}): "was not written by torch.save",
        b"version https://git-lfs.github.com/spec/v1\n": "run git lfs pull",
        b"plain text": "was not written by torch.save",
    }.items():
        path.write_bytes(broken)
        with refused(str(path), message):
            open_weights(str(path))
    write_zip(path, state_dict({"a": PIECE}), {"0": NUMBERS.tobytes()}, {"byteorder": b"middle"})
    with refused(str(path), "the unknown byte order b'middle'"):
        open_weights(str(path))


def test_damaged_streams(path: pathlib.Path) -> None:
    pickled, storages = (
        state_dict({"a": tensor(stored("float32", "0", 60, None), 0, (60,), (1,))}),
        NUMBERS.tobytes(),
    )
    write_stream(path, pickled, {"0": (60, storages)})
    content = path.read_bytes()
    for broken, message in {
        content[:-1]: "is cut off inside storage '0'",
        content[:-241]: "is cut off inside storage '0'",
        content + b"\0": "has 1 bytes after its last storage",
        content[: len(content) // 4]: "is cut off inside its pickle",
    }.items():
        path.write_bytes(broken)
        with refused(str(path), message):
            open_weights(str(path))
    for held, message in {
        ("0", 59): "has 59 elements in storage '0', not 60",
        ("1", 60): "does not hold the storages that it describes",
    }.items():
        write_stream(path, pickled, {held[0]: (held[1], storages)})
        with refused(str(path), message):
            open_weights(str(path))
    two = {
        name: tensor(stored("float32", "0", count, None), 0, (1,), (1,))
        for name, count in (("a", 60), ("b", 61))
    }
    write_stream(path, state_dict(two), {"0": (60, storages)})
    with refused("describes storage '0' in two ways"):
        open_weights(str(path))


@FORMATS
def test_random_changes(path: pathlib.Path, stream: bool) -> None:
    write(path, {"a": NUMBERS.reshape(5, 12), "b": np.ones(3, np.int8)}, stream=stream)
    assert fuzz(path, 400, seed=2) > 200


def test_nothing_foreign_is_imported(path: pathlib.Path) -> None:
    write(path, samples(), stream=False)
    code = (
        "import sys\n"
        "from bertjax.convert.readers import open_weights\n"
        "weights = open_weights(sys.argv[1])\n"
        "arrays = [weights.read(name) for name in weights]\n"
        "assert len(arrays) > 9 and not {'torch', 'jax'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


# ------------------------------------------------------------------------------------- files of PyTorch itself


@pytest.mark.parity
@FORMATS
def test_what_torch_wrote(path: pathlib.Path, stream: bool) -> None:
    torch = pytest.importorskip("torch")
    base = torch.arange(60, dtype=torch.float32).reshape(5, 12)
    state = {name: torch.zeros(3, 2, dtype=getattr(torch, name)) + 1 for name in STORAGES}
    state |= {"transposed": base.T, "part": base[1:3, 2:9:2], "again": base, "scalar": torch.tensor(2.5)}
    state |= {
        "expanded": base[0].expand(4, 12),
        "none": torch.zeros(0, 3),
        "weight": torch.nn.Parameter(base + 1),
    }
    torch.save(state, path, _use_new_zipfile_serialization=not stream)
    found = read_all(path)
    assert found.keys() == state.keys()
    for name, value in state.items():
        assert found[name].dtype.name == str(value.dtype).removeprefix("torch.")
        expected = value.detach().float().numpy()
        np.testing.assert_array_equal(found[name].astype(np.float32), expected, name)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@FORMATS
def test_what_a_model_wrote(path: pathlib.Path, stream: bool) -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(
        torch.nn.Linear(5, 7), torch.nn.LayerNorm(7), torch.nn.Linear(7, 5)
    ).bfloat16()
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=not stream)
    found = read_all(path)
    assert list(found) == list(model.state_dict())
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(found[name].view(np.uint16), value.view(torch.uint16).numpy())
    torch.save(model, path, _use_new_zipfile_serialization=not stream)
    with refused("wants torch.nn.modules.container.Sequential"):
        open_weights(str(path))
    torch.jit.save(torch.jit.trace(model, torch.zeros(2, 5, dtype=torch.bfloat16)), path)
    with refused("is a TorchScript program"):
        open_weights(str(path))

"""Preparing gigabytes: memory stays bounded, and the speed is that of the tokenizer."""

import os
import pathlib
import random
import statistics
import subprocess
import sys
import time

import pytest

from bertjax.bench.bare import BARE
from bertjax.data.workers import available_cores
from tests.data.corpora import documents

pytestmark = pytest.mark.slow
GIGABYTE = 1_000_000_000


def write_large(path: pathlib.Path, size: int) -> None:
    """Documents of made-up sentences, every one of them different."""
    block = ["\n".join(document) for document in documents(30_000)]
    random_ = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        while file.tell() < size:
            random_.shuffle(block)
            file.writelines(f"Number {random_.getrandbits(60)} begins here.\n{text}\n\n" for text in block)


def start(text: pathlib.Path, tokenizer: str, out: pathlib.Path, workers: int) -> subprocess.Popen[bytes]:
    options = [f"--input={text}", f"--tokenizer={tokenizer}", f"--out={out}", f"--workers={workers}"]
    return subprocess.Popen([sys.executable, "-m", "bertjax", "prepare", *options, "--deduplicate=true"])


def resident(pid: int) -> int:
    """Resident memory of a process and of all below it."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        below = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    own = [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS")]
    return sum(own) + sum(resident(int(child)) for child in below)


def test_memory_does_not_grow_with_the_corpus(tokenizer_folder: str, tmp_path: pathlib.Path) -> None:
    size = int(2.1 * GIGABYTE)
    write_large(tmp_path / "large.txt", size)
    process = start(tmp_path / "large.txt", tokenizer_folder, tmp_path / "corpus", min(4, available_cores()))
    peaks = []
    while process.poll() is None:
        peaks.append(resident(process.pid))
        time.sleep(0.2)
    assert process.returncode == 0
    tenth = len(peaks) // 10
    print(f"peak {max(peaks) / 1e6:.0f} MB; in the first tenth {max(peaks[:tenth]) / 1e6:.0f} MB")
    assert max(peaks) < 2 * GIGABYTE


def test_as_fast_as_the_bare_tokenizer(tokenizer_folder: str, tmp_path: pathlib.Path) -> None:
    """The whole tool, start and merge included, against the library's own threads, in turns."""
    write_large(tmp_path / "text.txt", 60_000_000)
    ratios = []
    for turn in range(3):
        command = [sys.executable, "-c", BARE, tmp_path / "text.txt", tokenizer_folder]
        bare = subprocess.run(
            command, capture_output=True, check=True, env={**os.environ, "TOKENIZERS_PARALLELISM": "true"}
        )
        began = time.perf_counter()
        assert (
            start(tmp_path / "text.txt", tokenizer_folder, tmp_path / str(turn), available_cores()).wait()
            == 0
        )
        ratios.append((time.perf_counter() - began) / float(bare.stdout))
    print("time of prepare over that of encode_batch:", *(f"{ratio:.2f}" for ratio in ratios))
    assert statistics.median(ratios) < 1.3

"""Preparing a corpus beside the tokenizer alone, on the same text with the same cores, in turns.

    bare       the library's own threads encode the documents, a thousand a call, and throw the tokens away
    prepare    `python -m bertjax prepare`, from the start of its process to the manifest of the corpus

The bare side is timed without its imports and with its text in memory, so what prepare takes more is its start, reading
and hashing, sentences, and writing a corpus.
"""

import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from bertjax.data.tokenizer_files import load

BARE = """
import sys, time
from bertjax.data.tokenizer_files import load
texts = open(sys.argv[1], encoding="utf-8").read().split("\\n\\n")
fast = load(sys.argv[2]).fast
began = time.perf_counter()
for first in range(0, len(texts), 1000):
    fast.encode_batch(texts[first : first + 1000])
print(time.perf_counter() - began)
"""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Seconds of each turn."""

    megabytes: float
    bare: tuple[float, ...]
    prepare: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """The fastest over the fastest: what else the machine does can only add."""
        return min(self.prepare) / min(self.bare)


def compare(text: str, tokenizer: str, rounds: int) -> Prepared:
    """Prepares a text file with a tokenizer of the `tokenizers` library, beside that library."""
    if not os.path.isfile(text):
        raise ValueError(f"text={text} is no file: name one of text, with blank lines between documents")
    if not hasattr(load(tokenizer), "fast"):
        raise ValueError(
            f"the tokenizer of {tokenizer} is not one of the library `tokenizers`: name a corpus with such a one"
        )
    bare, prepare = [], []
    with tempfile.TemporaryDirectory(prefix="bertjax-") as folder:
        for turn in range(rounds):
            threads = {**os.environ, "TOKENIZERS_PARALLELISM": "true"}
            bare.append(float(_run([sys.executable, "-c", BARE, text, tokenizer], threads)))
            command = [sys.executable, "-m", "bertjax", "prepare", f"--input={text}", "--format=text"]
            began = time.perf_counter()
            _run([*command, f"--tokenizer={tokenizer}", f"--out={pathlib.Path(folder, str(turn))}"], None)
            prepare.append(time.perf_counter() - began)
    return Prepared(os.path.getsize(text) / 1e6, tuple(bare), tuple(prepare))


def _run(command: list[str], environment: dict[str, str] | None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        side, why = (
            "prepare" if environment is None else "the tokenizer",
            " ".join(done.stderr.splitlines()[-1:]),
        )
        raise ValueError(f"{side} ended with {done.returncode}: {why}")
    return done.stdout

"""Small texts, a tokenizer for them, and ways to run the tools, shared by the tests of the data path."""

import os
import pathlib
import random
import subprocess
import sys
from collections.abc import Sequence

BEGINNINGS = ("b", "br", "c", "cl", "d", "f", "gr", "h", "l", "m", "p", "pr", "s", "st", "t", "tr", "w")
ENDINGS = (
    "all",
    "and",
    "ater",
    "eam",
    "ear",
    "ence",
    "est",
    "ight",
    "ing",
    "ock",
    "old",
    "other",
    "ount",
    "own",
)
WORDS = [beginning + ending for beginning in BEGINNINGS for ending in ENDINGS]


def sentence(random_: random.Random) -> str:
    """A few words and a full stop."""
    chosen = [random_.choice(WORDS) for _ in range(random_.randint(3, 12))]
    return " ".join(chosen).capitalize() + random_.choice(".!?")


def documents(count: int, seed: int = 0) -> list[list[str]]:
    """Documents as lists of sentences."""
    random_ = random.Random(seed)
    return [[sentence(random_) for _ in range(random_.randint(1, 6))] for _ in range(count)]


def write_text(path: pathlib.Path, texts: Sequence[Sequence[str]]) -> str:
    """A text file with an empty line between documents and a sentence on each line."""
    path.write_text("\n\n".join("\n".join(text) for text in texts) + "\n", encoding="utf-8")
    return str(path)


def run_python(code: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs a piece of Python in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, timeout=120
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def run_tool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m bertjax` as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "bertjax", *arguments],
        capture_output=True,
        text=True,
        env=os.environ,
        timeout=120,
    )

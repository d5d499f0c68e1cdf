"""Price lists that go on: what was measured before, by the same code under the same conditions, is kept.

All variants, or all rows of a machine's goals, take a quarter of an hour and more. A list that was stopped is continued
by the same command, and so is one to which lines are added one by one. A price of other code is another price, so a
digest of the code stands beside the numbers: who changes an attention and asks again has all of them measured again.
"""

import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

# What decides how fast a block is, and how that is measured.
CODE = ("attention", "layers", "models", "sharding.py", "bench/block.py")
# The same of whole steps.
CODE_OF_STEPS = (
    *("attention", "layers", "models", "tasks", "adversarial.py", "metrics.py", "optim.py", "program.py"),
    *("sharding.py", "step.py", "heap.py", "bench/ceiling.py", "bench/contest.py", "bench/machine.py"),
    *("bench/ours.py", "bench/row.py", "bench/theirs.py", "bench/theirs_flax.py"),
)


def digest_of_code(parts: Sequence[str] = ()) -> str:
    """Changes with every change of these files; without any named, of those that decide how fast a block is."""
    root, digest = pathlib.Path(__file__).parents[1], hashlib.sha256()
    for part in parts or CODE:
        path = root / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def read(path: pathlib.Path, about: dict[str, Any], lines: str = "variants") -> list[dict[str, Any]]:
    """The lines of a list that holds for the same; none, and the reason printed, where it holds for something else."""
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_text())
        theirs, kept = found["about"], found[lines]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no price list ({error}): delete it, or name another --out") from None
    about = json.loads(json.dumps(about))  # tuples are lists there
    different = sorted(name for name in {*about, *theirs} if about.get(name) != theirs.get(name))
    if different:
        print(f"{path} holds for other {', '.join(different)}: it is written anew")
        return []
    return kept

"""The quickstart: what it reads is on every machine with this project, and is read in seconds."""

import importlib.metadata
import pathlib
import re

from bertjax.data.sources import SourceOptions, find_sources
from experiments import quickstart


def names(lines: list[str]) -> set[str]:
    """Of distributions that are always installed, without versions."""
    needed = (line for line in lines if line and not line.startswith("#") and "extra ==" not in line)
    return {re.split(r"[^A-Za-z0-9-]", line)[0] for line in needed}


def test_its_text_is_on_every_machine_and_little() -> None:
    required = names((pathlib.Path(__file__).parents[2] / "requirements.txt").read_text().splitlines())
    there = required | names(importlib.metadata.requires("jax") or [])
    distributions = {"orbax": "orbax-checkpoint"}
    assert {distributions.get(name, name) for name in quickstart.LIBRARIES} <= there
    sizes = {source.name: source.bytes or 0 for source in find_sources(SourceOptions(input=quickstart.TEXT))}
    assert min(sizes.values()) > 100_000  # a package that is only a name here would be none
    assert sum(sizes.values()) < 80e6 and set(quickstart.VOCABULARY) <= sizes.keys()

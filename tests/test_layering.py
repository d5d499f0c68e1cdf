"""Imports run one way: read from the source with `ast`, module level and function level alike.

`MAY_IMPORT` is the house: every unit (a module or a package directly below bertjax) and the units below it.
A new unit is added here, which is the moment to think about where it belongs.
"""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

GROUND = {"types", "settings", "sharding"}
MODEL = GROUND | {"layers", "attention", "models"}
DATA = GROUND | {"data", "metrics", "scores", "journal"}
HOSTS = {"exit_codes", "cluster", "watchdog"}
RUN = MODEL | DATA | HOSTS | {"tasks", "adversarial", "optim", "tune", "checkpoint", "config", "preflight"}
WHOLE = RUN | {
    "compiled",
    "heap",
    "inherit",
    "program",
    "finetune",
    "history",
    "step",
    "parts",
    "train",
    "convert",
    "bundle",
}
TOP = {"evaluate", "predict", "plan", "profile", "report", "bench"}

MAY_IMPORT: dict[str, set[str]] = {
    "types": set(),
    "settings": set(),
    "sharding": {"types"},
    "layers": GROUND,
    "attention": GROUND | {"layers"},
    "models": GROUND | {"layers", "attention"},
    "data": GROUND,
    "metrics": GROUND,
    "scores": GROUND,
    "journal": GROUND,
    "tasks": MODEL | DATA,
    "adversarial": MODEL | DATA | {"tasks"},
    "optim": GROUND,
    "tune": GROUND | {"layers"},
    "checkpoint": MODEL,
    "compiled": set(),
    "heap": set(),
    "exit_codes": set(),
    "cluster": {"exit_codes"},
    "watchdog": {"exit_codes", "cluster"},
    "preflight": GROUND | DATA | HOSTS | {"checkpoint"},
    "config": MODEL | DATA | HOSTS | {"tasks", "adversarial", "optim", "tune", "checkpoint"},
    "inherit": RUN | {"history"},
    "program": RUN | {"inherit"},
    "finetune": RUN | {"inherit", "program", "history"},
    "history": {"config", "settings"},
    "step": RUN | {"program"},
    "parts": RUN | {"program", "finetune", "history", "step"},
    "train": RUN | {"compiled", "heap", "program", "finetune", "history", "step", "parts"},
    "convert": RUN | {"inherit"},
    "bundle": RUN | {"inherit", "history", "convert"},
    **{unit: WHOLE | TOP for unit in TOP},
    "experiment": WHOLE | TOP,
    "suite": WHOLE | TOP | {"experiment"},
    "tools": WHOLE | TOP,
    "__main__": GROUND | {"tools"},
    "__init__": {"bundle"},
}

# Frameworks that weights are exchanged with and that the benches race against: imported only inside functions, and only
# there.
FOREIGN = {"torch", "tensorflow", "transformers", "tf_keras", "keras"}
FOREIGN_UNITS = {"bench", "convert"}

# An accelerator image may lack these: nothing imports them before it uses them.
OPTIONAL = [
    *("datasets", "grain", "pyarrow", "tokenizers", "sentencepiece", "safetensors"),
    *("tensorboardX", "matplotlib", "tqdm", "jaxtyping", "sacrebleu"),
]


def modules_below(root: Path, package: str) -> dict[str, Path]:
    """Dotted name -> file of every module of a package."""
    found = {}
    for file in sorted((root / package).rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports_of(module: str, file: Path, known: Iterable[str]) -> Iterator[tuple[str, int, bool]]:
    """(imported module, line, whether inside a function) of every import in a file."""
    known = set(known)
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]

    def walk(node: ast.AST, inside: bool) -> Iterator[tuple[str, int, bool]]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, inside
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                deeper = f"{base}.{alias.name}"
                yield deeper if deeper in known else base, node.lineno, inside
        elif isinstance(node, ast.Call) and _name(node.func) in ("import_module", "__import__"):
            if node.args and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value), node.lineno, inside
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside)

    yield from walk(ast.parse(file.read_text(encoding="utf-8"), str(file)), False)


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def unit_of(module: str) -> str:
    """The part of the house that a module belongs to."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def violations(root: Path) -> list[str]:
    """Every import that runs upwards, every unit and every foreign framework out of place."""
    known = modules_below(root, "bertjax")
    found = []
    for module, file in known.items():
        unit = unit_of(module)
        if unit not in MAY_IMPORT:
            found.append(f"{module}: {unit} has no place in MAY_IMPORT")
            continue
        for target, line, inside in imports_of(module, file, known):
            top = target.split(".")[0]
            where = f"{module}:{line} imports {target}"
            if top in ("experiments", "tests"):
                found.append(f"{where}: nothing in bertjax knows its users")
            elif top in FOREIGN and not (inside and unit in FOREIGN_UNITS):
                found.append(f"{where}: only functions of {', '.join(sorted(FOREIGN_UNITS))} may")
            elif top == "bertjax" and unit_of(target) not in MAY_IMPORT[unit] | {unit}:
                found.append(f"{where}: {unit_of(target)} is not below {unit}")
    return found


def circle(edges: Mapping[str, Iterable[str]]) -> list[str]:
    """Modules that import each other in a ring; empty where there is none."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module not in done:
            for target in edges.get(module, ()):
                if ring := visit(target, [*path, module]):
                    return ring
            done.add(module)
        return []

    return next((ring for module in edges if (ring := visit(module, []))), [])


def edges_of(root: Path) -> dict[str, list[str]]:
    """Module -> modules of bertjax that it imports."""
    known = modules_below(root, "bertjax")
    return {
        module: [target for target, _, _ in imports_of(module, file, known) if target in known]
        for module, file in known.items()
    }


def test_imports_run_one_way() -> None:
    assert modules_below(ROOT, "bertjax"), "no sources found"
    assert violations(ROOT) == []


def test_no_circles() -> None:
    assert circle(edges_of(ROOT)) == []


def test_the_map_itself_has_no_upward_edge() -> None:
    below = {unit: units - TOP for unit, units in MAY_IMPORT.items()}
    assert circle(below) == []
    for unit, units in MAY_IMPORT.items():
        assert units <= MAY_IMPORT.keys(), unit


BREACHES = {
    "at module level": ("layers/a.py", "from bertjax.models import encoder", "models is not below layers"),
    "in a function": ("data/a.py", "def f():\n    import bertjax.models.encoder", "models is not below data"),
    "in a method": (
        "metrics.py",
        "class A:\n    def f(self):\n        from bertjax import tasks",
        "tasks is not",
    ),
    "relative": ("attention/a.py", "from ..models import encoder", "models is not below attention"),
    "by name": (
        "tasks/a.py",
        "import importlib\nimportlib.import_module('bertjax.train')",
        "train is not below",
    ),
    "of a user": ("train.py", "import experiments.quickstart", "nothing in bertjax knows its users"),
    "of a stranger": ("helpers.py", "", "helpers has no place"),
    "foreign framework elsewhere": (
        "train.py",
        "def f():\n    import torch",
        "only functions of bench, convert",
    ),
    "foreign framework at module level": (
        "convert/a.py",
        "import transformers",
        "only functions of bench, convert",
    ),
}


@pytest.mark.parametrize("case", BREACHES)
def test_breach_is_seen(case: str, tmp_path: Path) -> None:
    name, source, message = BREACHES[case]
    for path, text in {
        "models/encoder.py": "from bertjax.layers import norm",
        "layers/norm.py": "import jax\nfrom ..types import Array",
        "types.py": "",
        "tasks/__init__.py": "",
        "convert/names.py": "def f():\n    import torch",
    }.items():
        _write(tmp_path / "bertjax" / path, text)
    assert violations(tmp_path) == []
    _write(tmp_path / "bertjax" / name, source)
    (found,) = violations(tmp_path)
    assert message in found


def test_circle_is_seen(tmp_path: Path) -> None:
    _write(tmp_path / "bertjax/layers/a.py", "from bertjax.layers import b")
    _write(tmp_path / "bertjax/layers/b.py", "import bertjax.layers.c")
    _write(tmp_path / "bertjax/layers/c.py", "X = 1")
    assert circle(edges_of(tmp_path)) == []
    _write(tmp_path / "bertjax/layers/c.py", "def f():\n    from .a import X")
    assert set(circle(edges_of(tmp_path))) == {f"bertjax.layers.{name}" for name in "abc"}


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


IMPORT_EVERYTHING = """
import importlib, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked)", name=name)

sys.meta_path.insert(0, Missing())
for module in {modules!r}:
    importlib.import_module(module)
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized(), "an import touched the devices"
"""


def test_imports_without_the_optional_libraries() -> None:
    modules = [*modules_below(ROOT, "bertjax"), *modules_below(ROOT, "experiments")]
    modules = [name for name in modules if not name.endswith("__main__")]
    code = IMPORT_EVERYTHING.format(missing=OPTIONAL, modules=modules)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_a_module_level_import_of_an_optional_library_is_seen(tmp_path: Path) -> None:
    (tmp_path / "needy.py").write_text("import tqdm")
    code = IMPORT_EVERYTHING.format(missing=OPTIONAL, modules=["needy"])
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "No module named 'tqdm' (blocked)" in done.stderr

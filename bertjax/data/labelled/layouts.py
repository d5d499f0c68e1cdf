"""From one file of a published layout to columns; the file's name says which layout it is.

    .tsv .txt       columns with tabs between, quotes being ordinary characters (GLUE); a first line of names, unless
                    `columns` gives as many as the line has fields (CoLA: in its training file, not in that to test)
    .csv            columns with commas between and quoted fields; a first column without a name is `index` (SWAG)
    .jsonl .ndjson  an object a line (SuperGLUE, CLUE)
    .json           SQuAD's {"data": [...]}, a list of objects, an object of columns, or an object a line
    .txt            that begins with a brace: an object (RACE)
    .conll .bio .iob .iob2, .train .dev .testa .testb .test
                    a word and its tags a line, an empty line after each sentence (CoNLL); .txt without tabs, too
    .parquet .arrow

SQuAD becomes one record a question: id, title, context, question, answers (a list of texts) and starts (where each
begins in the context, in characters); other records that hold records are taken apart by `nested`. CoNLL becomes one
record a sentence: words, tags, and what lies between by the names in `columns`.

`read_pairs` reads a folder of STS 2012 to 2016, where texts and their similarities lie in two files each.

A line of a table with too few or too many fields is an error, but for as many as `bad_rows` allows: those are left out.
"""

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bertjax.data.labelled.nested import unnest
from bertjax.data.labelled.split import Split

__all__ = ["PAIRS", "SUFFIXES", "read_file", "read_pairs"]

PAIRS, SIMILARITIES = "STS.input.", "STS.gs."  # how the files of STS 2012 to 2016 begin

TABLES = (".tsv", ".txt", ".csv")
WORDS = (".conll", ".bio", ".iob", ".iob2", ".train", ".dev", ".testa", ".testb", ".test")
SUFFIXES = (*TABLES, ".jsonl", ".ndjson", ".json", *WORDS, ".parquet", ".arrow")
_HINT = "mend it, or allow for it with records.bad_rows"


def read_file(path: str, *, columns: Sequence[str] = (), bad_rows: int = 0) -> Split:
    """The records of one file."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in SUFFIXES:
        raise ValueError(
            f"{path}: {suffix or 'no suffix'} is no known layout: it is one of {', '.join(SUFFIXES)}"
        )
    if suffix in (".parquet", ".arrow"):
        return _arrow(path, suffix)
    text = _read(path)
    if suffix == ".csv":
        return _csv(path, text, columns, bad_rows)
    if suffix == ".txt" and text.lstrip().startswith("{"):
        return _json(path, text)
    if suffix in WORDS or (suffix == ".txt" and "\t" not in text.partition("\n")[0]):
        return _words(path, text, columns)
    if suffix in TABLES:
        fields = [line.split("\t") for line in _lines(text)]
        return _table(path, fields, list(range(1, len(fields) + 1)), columns, bad_rows)
    return _json(path, text) if suffix == ".json" else _json_lines(path, text)


def _read(path: str) -> str:
    with open(path, "rb") as file:
        content = file.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path} line {line}: not UTF-8 (byte 0x{content[error.start]:02x}): convert the file"
        ) from None


def _lines(text: str) -> list[str]:
    """Lines as files have them; other separators of Unicode belong to the text."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines and not lines[-1] else lines


# ---------------------------------------------------------------------------------------------- tables


def _csv(path: str, text: str, columns: Sequence[str], bad_rows: int) -> Split:
    fields: list[list[str]] = []
    lines: list[int] = []
    reader = csv.reader(text.splitlines(keepends=True), strict=True)
    csv.field_size_limit(1 << 30)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise ValueError(
                f"{path} line {line}: {error}: quote fields with commas or quotes in them"
            ) from None
        if row is None:
            return _table(path, fields, lines, columns, bad_rows)
        if row:
            fields.append(row)
            lines.append(line)


def _table(
    path: str, fields: Sequence[Sequence[str]], lines: Sequence[int], columns: Sequence[str], bad_rows: int
) -> Split:
    if not fields:
        raise ValueError(f"{path} is empty")
    first = list(fields[0])
    if columns and len(first) == len(columns):
        names = list(columns)
        start = 1 if [name.strip() for name in first] == names else 0
    else:
        names, start = [name.strip() for name in first], 1
        if not names[0] and "index" not in names:
            names[0] = "index"
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None or not all(names):
            what = "an empty name" if twice is None else f"{twice!r} twice"
            raise ValueError(f"{path} line 1 has {what}: it should name the columns; or set records.columns")
    good: list[int] = []
    bad: list[int] = []
    for number in range(start, len(fields)):
        (good if len(fields[number]) == len(names) else bad).append(number)
    if len(bad) > bad_rows:
        one = bad[0]
        raise ValueError(
            f"{path} line {lines[one]} has {len(fields[one])} fields and the table {len(names)} columns "
            f"({len(bad)} such lines, records.bad_rows={bad_rows}): {_HINT}"
        )
    values = {name: [fields[number][place] for number in good] for place, name in enumerate(names)}
    return Split(path, values, lines=[lines[number] for number in good])


# ---------------------------------------------------------------------------------------------- JSON


def _json_lines(path: str, text: str) -> Split:
    records, lines = [], []
    for number, line in enumerate(_lines(text), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path} line {number}: broken JSON ({error.msg} at column {error.colno})"
            ) from None
        if not isinstance(record, dict):
            raise ValueError(
                f"{path} line {number}: {type(record).__name__} instead of an object with columns"
            )
        records.append(record)
        lines.append(number)
    return _unnested(path, records, lines)


def _unnested(path: str, records: Sequence[dict[str, Any]], lines: Sequence[int] | None) -> Split:
    """A split of records, those that hold others taken apart."""
    named = Split(path, {"": records}, lines=lines)  # to say where one stands
    flat, owners = unnest(records, named.where)
    if len(flat) == len(records):
        return Split(path, _columns(flat), lines=lines)
    found = [owner + 1 if lines is None else lines[owner] for owner in owners]
    return Split(path, _columns(flat), lines=found, unit="record" if lines is None else "line")


def _columns(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Columns of all names that occur; None where a record lacks one."""
    names = dict.fromkeys(name for record in records for name in record)
    return {name: [record.get(name) for record in records] for name in names}


def _json(path: str, text: str) -> Split:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # an object a line, under a name that says less
            return _json_lines(path, text)
        raise ValueError(
            f"{path} line {error.lineno}: broken JSON ({error.msg} at column {error.colno})"
        ) from None
    if isinstance(data, dict) and isinstance(data.get("data"), list):
        inner = data["data"]
        if all(isinstance(item, dict) and "paragraphs" in item for item in inner):
            return _squad(path, inner)
        data = inner
    if isinstance(data, dict) and data and all(isinstance(column, list) for column in data.values()):
        sizes = {name: len(column) for name, column in data.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"{path}: columns of unequal length: {sizes}")
        return Split(path, data)
    if isinstance(data, dict):  # one object, the only line
        data = [data]
    if not isinstance(data, list) or not all(isinstance(record, dict) for record in data):
        raise ValueError(f"{path} is neither SQuAD's layout, nor a list of objects, nor an object of columns")
    return _unnested(path, data, None)


def _squad(path: str, articles: Iterable[dict[str, Any]]) -> Split:
    records = []
    for article in articles:
        for paragraph in article["paragraphs"]:
            for question in paragraph.get("qas", ()):
                try:
                    answers = question.get("answers") or []
                    records.append(
                        {
                            "id": str(question["id"]),
                            "title": article.get("title", ""),
                            "context": paragraph["context"],
                            "question": question["question"],
                            "answers": [answer["text"] for answer in answers],
                            "starts": [answer["answer_start"] for answer in answers],
                        }
                    )
                except (KeyError, TypeError) as error:
                    raise ValueError(
                        f"{path} question {question.get('id', len(records) + 1)}: no {error}: it is not SQuAD's layout"
                    ) from None
    columns = _columns(records)
    return Split(path, columns, lines=columns.get("id", []), unit="question")


def read_pairs(folder: str) -> Split:
    """A folder of STS: pairs of texts with tabs between, and their similarities line by line, empty for some."""
    columns: dict[str, list[Any]] = {"sentence1": [], "sentence2": [], "score": []}
    for name in sorted(file for file in os.listdir(folder) if file.startswith(PAIRS)):
        path = os.path.join(folder, name)
        other = os.path.join(folder, SIMILARITIES + name.removeprefix(PAIRS))
        if not os.path.exists(other):
            raise ValueError(f"{path} has no similarities: {other} is missing")
        pairs = [line.split("\t") for line in _lines(_read(path))]
        scores = [line.strip() for line in _lines(_read(other))]
        if len(pairs) != len(scores):
            raise ValueError(f"{path} has {len(pairs)} lines and {other} {len(scores)}: fetch both again")
        for number, (pair, score) in enumerate(zip(pairs, scores, strict=True), 1):
            if len(pair) < 2:
                raise ValueError(f"{path} line {number} has {len(pair)} texts and not two: {_HINT}")
            for column, value in zip(columns.values(), (pair[0], pair[1], score or None), strict=True):
                column.append(value)
    return Split(folder, columns)


# ---------------------------------------------------------------------------------------------- words


def _words(path: str, text: str, columns: Sequence[str]) -> Split:
    sentences: list[list[list[str]]] = [[]]
    lines = [1]
    width = None
    for number, line in enumerate(_lines(text), 1):
        fields = line.split("\t") if "\t" in line else line.split()
        if not "".join(fields).strip() or fields[0] == "-DOCSTART-":
            if sentences[-1]:
                sentences.append([])
                lines.append(number + 1)
            else:
                lines[-1] = number + 1
            continue
        width = width or len(fields)
        if len(fields) != width or width < 2:
            raise ValueError(
                f"{path} line {number} has {len(fields)} columns and "
                f"{'a word and its tag are two' if width < 2 else f'those before it {width}'}: mend it"
            )
        sentences[-1].append(fields)
    if not sentences[-1]:
        sentences.pop()
        lines.pop()
    if not sentences:
        raise ValueError(f"{path} is empty")
    assert width is not None
    names = list(columns) or ["words", *(str(place) for place in range(1, width - 1)), "tags"]
    if len(names) != width:
        raise ValueError(f"{path} has {width} columns and records.columns={','.join(names)}: name as many")
    values = {
        name: [[fields[place] for fields in sentence] for sentence in sentences]
        for place, name in enumerate(names)
    }
    return Split(path, values, lines=lines)


# ---------------------------------------------------------------------------------------------- Arrow


def _arrow(path: str, suffix: str) -> Split:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if suffix == ".parquet":
            table = pq.read_table(path)
        else:
            with pa.memory_map(path) as source:
                try:
                    table = pa.ipc.open_file(source).read_all()
                except pa.ArrowInvalid:
                    table = pa.ipc.open_stream(source).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} cannot be read ({str(error).splitlines()[0]}): fetch it again") from None
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    return Split(path, flattened(columns), classes=_classes(table.schema.metadata))


def _classes(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """Names of classes, as the `datasets` library writes them into the files."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    found = {}
    for name, feature in features.items():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else {}
        if isinstance(inner, dict) and inner.get("_type") == "ClassLabel":
            found[name] = list(inner["names"])
    return found


def flattened(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The answers of SQuAD as the hub has them, {"text": [...], "answer_start": [...]}, become two columns."""
    answers = columns.get("answers")
    if answers and all(isinstance(one, dict) and {"text", "answer_start"} <= one.keys() for one in answers):
        texts, starts = ([list(one[key]) for one in answers] for key in ("text", "answer_start"))
        return {**columns, "answers": texts, "starts": starts}
    return columns

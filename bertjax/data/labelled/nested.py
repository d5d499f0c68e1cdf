"""Published records that hold others, taken apart into one a record, with the columns that the hub has for them.

    WSC       {"text", "target": {"span1_text", "span1_index", ...}}                 the spans beside the text
    MultiRC   {"passage": {"text", "questions": [{"question", "answers": [...]}]}}   a record for each answer
    ReCoRD    {"passage": {"text", "entities": [...]}, "qas": [{"query", ...}]}      a record for each query
    RACE      {"article", "questions": [...], "options": [[...]], "answers": [...]}  a record for each question

What a layout is shows in its keys; any other record is left as it is. An entity of ReCoRD ends *at* its `end`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

__all__ = ["unnest"]

Record = Mapping[str, Any]


def unnest(records: Sequence[Record], where: Callable[[int], str]) -> tuple[list[Record], list[int]]:
    """The records taken apart, and for each the number of the one that it was in; `where` names that one in errors."""
    found: list[Record] = []
    owners: list[int] = []
    for number, record in enumerate(records):
        layout = next((name for name, (is_one, _) in LAYOUTS.items() if is_one(record)), None)
        if layout is None:
            found.append(record)
            owners.append(number)
            continue
        try:
            parts = list(LAYOUTS[layout][1](record))
        except (KeyError, TypeError, IndexError, ValueError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{where(number)}: {what}: it is not {layout}'s layout") from None
        found += parts
        owners += [number] * len(parts)
    return found, owners


def _wsc(record: Record) -> Iterator[Record]:
    rest = {name: value for name, value in record.items() if name != "target"}
    yield {**rest, **record["target"]}


def _multirc(record: Record) -> Iterator[Record]:
    passage = record["passage"]
    for question in passage["questions"]:
        for answer in question["answers"]:
            numbers = {"paragraph": record["idx"], "question": question["idx"], "answer": answer["idx"]}
            yield {
                "paragraph": passage["text"],
                "question": question["question"],
                "answer": answer["text"],
                "idx": numbers,
                "label": answer.get("label"),
            }


def _record(record: Record) -> Iterator[Record]:
    text = record["passage"]["text"]
    spans = record["passage"]["entities"]
    entities = list(dict.fromkeys(text[span["start"] : span["end"] + 1] for span in spans))
    for query in record["qas"]:
        answers = [answer["text"] for answer in query.get("answers") or ()]
        yield {
            "passage": text,
            "query": query["query"],
            "entities": entities,
            "answers": list(dict.fromkeys(answers)),
            "idx": {"passage": record["idx"], "query": query["idx"]},
        }


def _race(record: Record) -> Iterator[Record]:
    answers = record.get("answers") or [None] * len(record["questions"])
    for question, options, answer in zip(record["questions"], record["options"], answers, strict=True):
        yield {
            "example_id": record.get("id", ""),
            "article": record["article"],
            "question": question,
            "options": options,
            "answer": answer,
        }


def _is_wsc(record: Record) -> bool:
    """A target that is a text, or missing, is that of a translation."""
    return _with("text", "target")(record) and not isinstance(record["target"], str | None)


def _with(*keys: str) -> Callable[[Record], bool]:
    return lambda record: all(key in record for key in keys)


LAYOUTS: dict[str, tuple[Callable[[Record], bool], Callable[[Record], Iterator[Record]]]] = {
    "WSC": (_is_wsc, _wsc),
    "ReCoRD": (_with("passage", "qas"), _record),
    "RACE": (_with("article", "questions", "options"), _race),
    "MultiRC": (
        lambda record: isinstance(record.get("passage"), Mapping) and "questions" in record["passage"],
        _multirc,
    ),
}

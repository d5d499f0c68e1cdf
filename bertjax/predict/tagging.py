"""tag: the entities of a text, or a label for each of its words.

    {"entities": [{"start": 0, "end": 11, "text": "Marie Curie", "label": "PER", "probability": 0.98}]}
    {"words": [{"start": 0, "end": 5, "text": "Marie", "label": "PROPN", "probability": 0.97}, ...]}

The second is what models tell whose tags are no entities (parts of speech). `start` and `end` count characters of the
text as it was given. A text is parted into words (`words.py`), which are tagged as in an evaluation, the tag of a word
being that of its first token; a long text is read in windows. Tags become entities as `scores.tags` reads them, and an
entity's probability is the mean of its words'. A record may have `words`, a list, in place of a text: the answer then
has their `tags` and `probabilities`, too, and places count in the words joined by spaces. An empty text has none.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from bertjax.bundle import Bundle
from bertjax.data.labelled.split import Split
from bertjax.predict.base import Answer, Column, Item, Pipeline
from bertjax.predict.labelled import TaskWork, find_task, split_of
from bertjax.predict.words import words_of
from bertjax.scores.tags import spans
from bertjax.tasks import tag as tag_task
from bertjax.tasks.labelled import Prediction


@dataclasses.dataclass(frozen=True)
class Tag(Pipeline):
    """Entities of texts with their places, or labels of words."""

    stride: int | None = None
    """Words that the windows of a long text share; none does as the model was trained to."""
    head: str | None = None
    """Which head, where a model has several for this."""

    columns: ClassVar[Mapping[str, Column]] = {
        "text": Column("the text", needed=False),
        "words": Column("in place of a text: a list of words", several=True, needed=False),
    }

    def __post_init__(self) -> None:
        """Refuses an overlap that is none."""
        super().__post_init__()
        self.at_least("stride", 0)

    def open(self, bundle: Bundle, length: int) -> "Tagging":
        """Needs a head that gives scores of every token."""
        return Tagging(self, bundle, length)

    def lines(self, answer: Answer) -> Iterator[str]:
        """A line for each entity or word."""
        for one in answer["entities"] if "entities" in answer else answer["words"]:
            yield f"{one['label']} {one['probability']:.2f}   {one['text']}"


class Tagging(TaskWork):
    """Words under a tagger."""

    def __init__(self, options: Tag, bundle: Bundle, length: int) -> None:
        task = find_task(bundle, ("tag",), "tag", options.head)
        assert isinstance(task, tag_task.Tag)
        self.given = task.words
        stride = task.stride if options.stride is None else options.stride
        task = dataclasses.replace(task, words="words", tags="tags", stride=stride)
        super().__init__(options, bundle, length, task)
        self.entities = task.scheme != "none"

    def key(self, name: str, record: Mapping[str, Any]) -> str | None:
        """Words may stand under the name that the model was trained with."""
        own = super().key(name, record)
        return own or (super().key(self.given, record) if name == "words" else None)

    def check(self, number: int, record: Any) -> Item:
        """Either a text, which is parted into words, or words."""
        item = super().check(number, record)
        text, words = item.values.get("text"), item.values.get("words")
        if (text is None) == (words is None):
            there = "both" if text is not None else "neither"
            raise ValueError(f"a record has either a 'text' or 'words', and this one has {there}")
        if text is not None:
            places = words_of(text)
            words = [text[start:end] for start, end in places]
        else:
            assert words is not None
            ends = np.cumsum([len(word) + 1 for word in words]).tolist()
            places = [(end - 1 - len(word), end - 1) for word, end in zip(words, ends, strict=True)]
            text = " ".join(words)
        given = {"given": "words" not in item.values}
        return dataclasses.replace(item, values={"text": text, "words": words, "places": places, **given})

    def split(self, items: Sequence[Item]) -> Split:
        """Lists of words."""
        return split_of(items, words=[item.values["words"] for item in items])

    def told(self, item: Item, found: Prediction) -> Answer:
        """The tags of the task as entities, or as they are."""
        tags, probabilities = found["tags"], found["probabilities"]
        answer: Answer = {} if item.values["given"] else dict(found)
        if self.entities:
            parts = [(span.type, span.start, span.end) for span in spans(tags)]
        else:
            parts = [(label, place, place + 1) for place, label in enumerate(tags)]
        places, text = item.values["places"], item.values["text"]
        answer["entities" if self.entities else "words"] = [
            {
                "start": places[first][0],
                "end": places[last - 1][1],
                "text": text[places[first][0] : places[last - 1][1]],
                "label": label,
                "probability": float(np.mean(probabilities[first:last])),
            }
            for label, first, last in parts
        ]
        return answer

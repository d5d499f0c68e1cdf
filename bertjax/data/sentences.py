"""Where sentences end: a few rules that hold in most languages, fast enough to vanish beside the tokenizer.

A sentence ends
1. at a newline (`punctuation`, `lines`) or at an empty line only (`wrapped`, for hard line breaks);
2. after `.` `!` `?` `…` and their relatives in other scripts, closing quotes and brackets included, where
   white space follows and the next character is not a lower-case letter;
3. after `。` `！` `？` and the like, closing brackets included, with or without white space.

Rule 2 does not apply to a full stop after a single letter or a word that contains one (J. Smith, U.S., e.g.),
after a number alone (the items of a list), or after the few titles and abbreviations below. What the
rules get wrong costs little: a boundary too many gives two short sentences, one too few a long one.
With `lines` each line is a sentence as it stands, the format that the original BERT scripts read.
"""

import re
from typing import Literal

__all__ = ["Rule", "split_sentences"]

Rule = Literal["punctuation", "lines", "wrapped"]

_CLOSING = "\"'”’»›)\\]}」』】）〉》"
_END = re.compile(rf"(?:[.!?…‼⁇⁈⁉؟۔։।॥።፧፨]+[{_CLOSING}]*(?=\s)|[。！？｡．]+[{_CLOSING}]*)\s*", re.UNICODE)
_NOT_BEFORE = re.compile(
    r"(?:^|[\s(\"'“‘\[])(?:[^\W\d_]|\S*[^\W\d_]\.[^\W\d_]|Mr|Mrs|Ms|Dr|Prof|St|vs|cf|Fig|\d+)$"
)
_PARAGRAPH = re.compile(r"\n\s*\n")


def split_sentences(text: str, rule: Rule) -> list[str]:
    """The sentences of a text in order, without the white space around them; none is empty."""
    if rule == "wrapped":
        lines = [" ".join(paragraph.split()) for paragraph in _PARAGRAPH.split(text)]
    else:
        lines = [line.strip() for line in text.splitlines()]
    if rule == "lines":
        return [line for line in lines if line]
    sentences: list[str] = []
    for line in lines:
        if line:
            sentences.extend(_split_line(line))
    return sentences


def _split_line(line: str) -> list[str]:
    sentences, start = [], 0
    for match in _END.finditer(line):
        end = match.end()
        if end == len(line):
            break
        if line[end].islower():
            continue
        if line[match.start()] == "." and _is_abbreviation(line, start, match):
            continue
        sentences.append(line[start:end].rstrip())
        start = end
    sentences.append(line[start:])
    return sentences


def _is_abbreviation(line: str, start: int, match: re.Match[str]) -> bool:
    if match.group().rstrip() != ".":  # "..." or a closing quote: an end of its own
        return False
    before = line[max(start, match.start() - 24) : match.start()]
    found = _NOT_BEFORE.search(before)
    if found is None:
        return False
    # "in 1984. Then" ends a sentence, "3. Open the lid" does not.
    return not before[-1:].isdigit() or before.strip().isdigit()

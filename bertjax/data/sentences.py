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

_OPENING = "\"'“‘«‹([{"
_CLOSING = "\"'”’»›)\\]}」』】）〉》"
_END = re.compile(rf"(?:([.!?…‼⁇⁈⁉؟۔։।॥።፧፨]+)[{_CLOSING}]*\s+|[。！？｡．]+[{_CLOSING}]*\s*)(?=\S)")
_ABBREVIATIONS = frozenset(("Mr", "Mrs", "Ms", "Dr", "Prof", "St", "vs", "cf", "Fig"))
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
        start = 0
        for match in _END.finditer(line):
            end = match.end()
            if line[end].islower() or match[1] == "." and _is_abbreviation(line, start, match.start()):
                continue
            sentences.append(line[start:end].rstrip())
            start = end
        if start < len(line):
            sentences.append(line[start:])
    return sentences


def _is_abbreviation(line: str, start: int, stop: int) -> bool:
    """Whether the full stop at `stop` belongs to the word before it."""
    word = line[max(line.rfind(" ", start, stop) + 1, start) : stop].lstrip(_OPENING)
    if word.isdigit():  # "in 1984. Then" ends a sentence, "3. Open the lid" does not
        return word == line[start:stop].strip()
    return word[-1:].isalpha() and (len(word) == 1 or word[-2] == "." or word in _ABBREVIATIONS)

"""Tags of tokens and the spans they mean, in the six schemes in use, from any of them to any other.

    tokens   Mark   Twain   met   Jo   Ann   in   Rome
    IOB1     I-P    I-P     O     I-P  I-P   O    I-L      B only where two spans of one type touch
    IOB2     B-P    I-P     O     B-P  I-P   O    B-L      B at the start of every span (CoNLL-2003 as it is used today)
    IOE1     I-P    I-P     O     I-P  I-P   O    I-L      E only where two spans of one type touch
    IOE2     I-P    E-P     O     I-P  E-P   O    E-L      E at the end of every span
    BIOES    B-P    E-P     O     B-P  E-P   O    S-L      S is a span of one token
    BILOU    B-P    L-P     O     B-P  L-P   O    U-L      BIOES by other letters

A tag without a type, a bare `B`, is of type `_`.

Reading has two ways. Without a scheme, `spans(tags)` takes every sequence, as conlleval and seqeval's
default do: a token other than O goes on with the span before it if that is of the same type and open (its
last tag is B or I) and the token itself is an I or an E; otherwise it begins a span. This reads the valid
sequences of every scheme right, and it is how invalid ones are repaired: `convert(tags, scheme)` writes
what was read. With a scheme, `spans(tags, scheme)` takes only the spans that the scheme writes so
(seqeval's strict mode): in IOB2, `O I-P` holds none.

Ramshaw and Marcus (1995) for IOB1, Tjong Kim Sang and Veenstra (1999) for the other three, Ratinov and Roth
(2009) for BILOU. Strict IOB1 and the rest are equal to seqeval's, except strict IOE1, which seqeval calls
unfinished and which here follows the definition above.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from bertjax.settings import suggest
from bertjax.types import Bool, Int

__all__ = ["SCHEMES", "Scheme", "Span", "Spans", "convert", "encode", "read", "spans"]

Scheme = Literal["IOB1", "IOB2", "IOE1", "IOE2", "BIOES", "BILOU"]

# Scheme -> the letters it uses besides O.
SCHEMES: dict[str, str] = {
    "IOB1": "IB",
    "IOB2": "BI",
    "IOE1": "IE",
    "IOE2": "IE",
    "BIOES": "BIES",
    "BILOU": "BILU",
}

OUTSIDE, BEGIN, INSIDE, END, SINGLE = range(5)
_CODES = {"B": BEGIN, "I": INSIDE, "E": END, "S": SINGLE, "L": END, "U": SINGLE}  # L last, U unit


class Span(NamedTuple):
    """Tokens start ... end-1 are a mention of something of this type."""

    type: str
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Spans:
    """All spans of many sentences, as arrays; positions count on over the sentences, with a gap between two."""

    names: tuple[str, ...]  # of the types
    types: Int[np.ndarray, "N"]  # index into names
    starts: Int[np.ndarray, "N"]
    ends: Int[np.ndarray, "N"]
    offsets: Int[np.ndarray, "B"]  # position of the first token of every sentence


def spans(tags: Sequence[str], scheme: Scheme | None = None) -> list[Span]:
    """The spans of one sentence; without a scheme those of any scheme, and of invalid sequences."""
    found = read([tags], scheme)
    first = int(found.offsets[0])
    return [
        Span(found.names[kind], int(start) - first, int(end) - first)
        for kind, start, end in zip(found.types, found.starts, found.ends, strict=True)
    ]


def encode(found: Sequence[Span], length: int, scheme: Scheme) -> list[str]:
    """The tags of a sentence of `length` tokens that holds these spans."""
    _check_scheme(scheme)
    tags, before = ["O"] * length, Span("", -1, 0)
    ordered = sorted(found, key=lambda span: span.start)
    for position, span in enumerate(ordered):
        if not before.end <= span.start < span.end <= length:
            raise ValueError(
                f"span {tuple(span)} in {length} tokens after {tuple(before)}: spans lie inside and do not overlap"
            )
        following = ordered[position + 1] if position + 1 < len(ordered) else Span("", -1, -1)
        letters = ["I"] * (span.end - span.start)
        if scheme in ("IOB2", "BIOES", "BILOU") or (
            scheme == "IOB1" and before.end == span.start and before.type == span.type
        ):
            letters[0] = "B"
        if scheme in ("IOE2", "BIOES", "BILOU") or (
            scheme == "IOE1" and following.start == span.end and following.type == span.type
        ):
            letters[-1] = "L" if scheme == "BILOU" else "E"
        if scheme in ("BIOES", "BILOU") and len(letters) == 1:
            letters = ["U" if scheme == "BILOU" else "S"]
        suffix = "" if span.type == "_" else f"-{span.type}"
        tags[span.start : span.end] = [letter + suffix for letter in letters]
        before = span
    return tags


def convert(tags: Sequence[str], target: Scheme, *, source: Scheme | None = None) -> list[str]:
    """The same spans in another scheme; without a source, of any scheme and repaired where invalid."""
    return encode(spans(tags, source), len(tags), target)


def read(sentences: Sequence[Sequence[str]], scheme: Scheme | None = None) -> Spans:
    """The spans of many sentences at once."""
    if scheme is not None:
        _check_scheme(scheme)
    flat = ["O"]
    for sentence in sentences:
        flat.extend(sentence)
        flat.append("O")  # no span goes over the end of a sentence
    names: dict[str, int] = {}
    vocabulary = sorted(set(flat))
    parsed = np.array([_parse(tag, scheme, names) for tag in vocabulary], np.int64)
    place = {tag: position for position, tag in enumerate(vocabulary)}
    codes, types = parsed[np.fromiter(map(place.__getitem__, flat), np.int64, len(flat))].T

    used = codes
    if scheme == "IOB1":  # a B that does not touch a token of its type means nothing
        touches = np.append(False, (codes[:-1] != OUTSIDE) & (types[1:] == types[:-1]))
        used = np.where((codes == BEGIN) & ~touches, OUTSIDE, codes)
    goes_on = (
        (types[1:] == types[:-1]) & np.isin(used[:-1], (BEGIN, INSIDE)) & np.isin(used[1:], (INSIDE, END))
    )
    starts = np.flatnonzero((used != OUTSIDE) & ~np.append(False, goes_on))
    ends = np.flatnonzero((used != OUTSIDE) & ~np.append(goes_on, False)) + 1
    if scheme is not None:
        kept = _well_formed(codes, types, starts, ends, scheme)
        starts, ends = starts[kept], ends[kept]
    lengths = np.array([len(sentence) + 1 for sentence in sentences], np.int64)
    return Spans(tuple(names), types[starts], starts, ends, offsets=1 + np.cumsum(lengths) - lengths)


def _well_formed(
    codes: Int[np.ndarray, "L"],
    types: Int[np.ndarray, "L"],
    starts: Int[np.ndarray, "N"],
    ends: Int[np.ndarray, "N"],
    scheme: str,
) -> Bool[np.ndarray, "N"]:
    """Which of the spans the scheme writes exactly so."""
    first, last, following = codes[starts], codes[ends - 1], codes[ends]
    same_type = types[ends] == types[starts]
    if scheme == "IOB2":
        return first == BEGIN
    if scheme == "IOE2":
        return last == END
    if scheme == "IOE1":
        return (last == END) == ((following != OUTSIDE) & same_type)
    if scheme == "IOB1":  # seqeval drops a lone B before the B of another type, which is no IOB1 either
        return ~((last == BEGIN) & (following == BEGIN) & ~same_type)
    return np.where(ends - starts == 1, first == SINGLE, (first == BEGIN) & (last == END))


def _check_scheme(scheme: str) -> None:
    if scheme not in SCHEMES:
        raise ValueError(f"scheme={scheme!r}: {suggest(scheme, list(SCHEMES))}")


def _parse(tag: str, scheme: str | None, names: dict[str, int]) -> tuple[int, int]:
    """Code and type of a tag; `names` learns its type."""
    if tag == "O":
        return OUTSIDE, -1
    letter, _, name = tag.partition("-")
    legal = SCHEMES[scheme] if scheme else "BIESLU"
    if letter not in _CODES or letter not in legal:
        raise ValueError(
            f"tag {tag!r}: {scheme or 'a scheme'} has O and {', '.join(legal)} with a type, as in '{legal[0]}-PER'"
        )
    return _CODES[letter], names.setdefault(name or "_", len(names))

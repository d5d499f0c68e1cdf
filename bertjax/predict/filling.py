"""fill-mask: the likeliest tokens where a text has gaps (BERT, 1810.04805, Section 3.1).

    p(w at gap i) = softmax over the vocabulary of the masked-LM head's logits at i

A gap is written [MASK], or as the model's tokenizer calls its mask (`<mask>`). `text` is the text with the best token
in each gap. What several gaps of a text know of each other, `order` says:

    at_once          nothing: each is judged while all others are empty, as BERT was trained to
    left_to_right    each is filled with its best token, and the next one is judged with that in place
    surest_first     the same, always with the gap whose best token is the most probable

The last two cost a pass for each gap of a text, take eight gaps at most, and tell `probability`, the product of those
of the chosen tokens: of the text, given what is around the gaps and that order. Of a text with more tokens than a row
those around the gaps are read. A text without a gap, an empty one among them, is an error of its line.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.bundle import Bundle
from bertjax.data.labelled.examples import Example, Row, Target
from bertjax.predict.base import Answer, Column, Item, OnePass, Part, Pipeline, head_of
from bertjax.types import Array, Batch, Tree

MASK = "[MASK]"
GAPS = 8  # of an example; a text with more of them is several
Order = Literal["at_once", "left_to_right", "surest_first"]


@dataclasses.dataclass(frozen=True)
class FillMask(Pipeline):
    """The likeliest tokens at every gap."""

    top: int = 5
    """Candidates for a gap."""
    order: Order = "at_once"
    """How several gaps of a text are filled: each as if the others stayed empty, or one by one (left_to_right, or
    surest_first), each with the tokens that were chosen before in place."""

    columns: ClassVar[Mapping[str, Column]] = {
        "text": Column(f"the text, with {MASK} where a word is missing")
    }

    def __post_init__(self) -> None:
        """Refuses to tell nothing."""
        super().__post_init__()
        self.at_least("top", 1)

    def open(self, bundle: Bundle, length: int) -> "Filling":
        """Needs a masked-LM head."""
        return Filling(self, bundle, length)

    def lines(self, answer: Answer) -> Iterator[str]:
        """A line for each gap."""
        for gap in answer["masks"]:
            yield "   ".join(f"{one['token']} {one['probability']:.2f}" for one in gap["candidates"])


class Masked(OnePass):
    """What is asked of a masked-LM head, at the positions `gaps` of each row only."""

    def __init__(self, options: Pipeline, bundle: Bundle, length: int, use: str) -> None:
        self.head = head_of(bundle, "mlm", use)
        super().__init__(options, bundle, length, [self.head])

    def compute(self, params: Tree, batch: Batch) -> Mapping[str, Array]:
        """The head is told where."""
        gaps = batch.targets[self.name]["gaps"]
        return super().compute(params, batch.with_targets(self.head, positions=gaps))


class Filling(Masked):
    """Gaps of texts."""

    def __init__(self, options: FillMask, bundle: Bundle, length: int) -> None:
        super().__init__(options, bundle, length, "fill-mask")
        self.targets = {"gaps": Target(np.int32, (GAPS,)), "number": Target(np.int32)}
        self.order = options.order
        self.top = min(options.top, self.tokenizer.vocabulary.size)
        own = self.tokenizer.roles()["mask"] or MASK
        self.mark = re.compile("|".join(re.escape(name) for name in dict.fromkeys((own, MASK))))

    def encode(self, items: Sequence[Item]) -> list[Example]:
        """A row of each text, with a mask token at every gap, and several alike where it has many gaps."""
        found: list[Example] = []
        for index, item in enumerate(items):
            text = item.values["text"]
            gaps = list(self.mark.finditer(text))
            if not gaps:
                shown = text if len(text) <= 60 else f"{text[:57]}..."
                raise ValueError(f"nothing to fill in {shown!r}: write {MASK} where a word is missing")
            if len(gaps) > GAPS and self.order != "at_once":
                raise ValueError(
                    f"the text has {len(gaps)} gaps and order={self.order} fills at most {GAPS}: part it, or leave "
                    f"order out"
                )
            tokens, places = self._tokens(text, gaps)
            tokens, places = self._around(item, tokens, places)
            row, types, (begin, _) = self.template.row(tokens)
            for start in range(0, len(places), GAPS):
                some = places[start : start + GAPS] + begin
                padded = np.pad(some, (0, GAPS - len(some)))
                spans = [gap.span() for gap in gaps[start : start + GAPS]]
                found.append(Example((Row(row, types),), {"gaps": padded, "number": len(some)}, index, spans))
        return found

    def _tokens(self, text: str, gaps: Sequence[re.Match[str]]) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of a text, and where among them the masks are."""
        edges = [0, *(edge for gap in gaps for edge in gap.span()), len(text)]
        # A mask takes the space before it along; the one behind it belongs to the next word, as in running text.
        parts = [text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]
        parts = [*(part.rstrip() for part in parts[:-1]), parts[-1]]
        encoded = self.tokenizer.encode_batch(parts)
        mask = np.array([self.tokenizer.vocabulary.mask], np.int32)
        pieces = [piece for part in encoded for piece in (part, mask)][:-1]
        places = np.cumsum([len(piece) for piece in pieces])[:-1:2]
        return np.concatenate(pieces), places

    def _around(self, item: Item, tokens: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As many tokens as a row holds, with all masks among them."""
        room = self.length - self.template.special(1)
        if len(tokens) <= room:
            return tokens, places
        span = int(places[-1] - places[0]) + 1
        if span > room:
            raise ValueError(
                f"the text has {len(tokens):,} tokens, {span:,} from the first gap to the last, and the model reads "
                f"{room}: shorten it"
            )
        start = min(max(int(places[0]) - (room - span) // 2, 0), len(tokens) - room)
        item.warnings.append(f"the text has {len(tokens):,} tokens and only {room} around the gaps were read")
        return tokens[start : start + room], places - start

    def compute(self, params: Tree, batch: Batch) -> Mapping[str, Array]:
        """In one pass, or gap by gap."""
        judge = super().compute
        if self.order == "at_once":
            return judge(params, batch)
        gaps, number = (batch.targets[self.name][name] for name in ("gaps", "number"))
        empty = jnp.arange(GAPS)[None, :] < number[:, None]
        shape = (*empty.shape, self.top)
        start = batch.tokens, empty, jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32)

        def fill(turn: Array, state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
            row, empty, tokens, odds = state
            found = judge(params, batch.replace(tokens=row))
            surest = jnp.where(empty, found["probabilities"][:, :, 0], -1.0).argmax(-1)
            chosen = surest if self.order == "surest_first" else jnp.full_like(surest, turn)
            now = empty & (jnp.arange(GAPS)[None, :] == chosen[:, None])
            tokens = jnp.where(now[:, :, None], found["tokens"], tokens)
            odds = jnp.where(now[:, :, None], found["probabilities"], odds)
            # Every row has at most one gap that is filled now: its place, and the token that goes there.
            here = (now[:, :, None] & (gaps[:, :, None] == jnp.arange(row.shape[1])[None, None, :])).any(1)
            best = jnp.where(now, found["tokens"][:, :, 0], 0).sum(1, dtype=jnp.int32)
            return jnp.where(here, best[:, None], row), empty & ~now, tokens, odds

        _, _, tokens, odds = jax.lax.fori_loop(0, number.max(), fill, start)
        return {"tokens": tokens, "probabilities": odds}

    def outcomes(self, outputs: Mapping[str, Any], batch: Batch) -> Mapping[str, Array]:
        """The best tokens at every gap and their probabilities."""
        del batch
        logits = outputs[self.head][..., : self.tokenizer.vocabulary.size]
        probabilities, tokens = jax.lax.top_k(jax.nn.softmax(logits), self.top)
        return {"tokens": tokens, "probabilities": probabilities}

    def told(self, item: Item, found: Sequence[Part]) -> Answer:
        """Every gap with its place in the text and its candidates, and the text with the best of each."""
        gaps, best = [], []
        for spans, values in found:
            for (start, end), tokens, odds in zip(
                spans, values["tokens"], values["probabilities"].tolist(), strict=False
            ):
                names = self.tokenizer.tokens(tokens)
                candidates = [
                    {"token": name, "probability": value} for name, value in zip(names, odds, strict=True)
                ]
                gaps.append({"start": start, "end": end, "candidates": candidates})
                best.append(int(tokens[0]))
        answer: Answer = {"text": self._filled(item.values["text"], gaps, best), "masks": gaps}
        if self.order != "at_once":
            answer["probability"] = math.prod(gap["candidates"][0]["probability"] for gap in gaps)
        return answer

    def _filled(self, text: str, gaps: Sequence[Mapping[str, Any]], tokens: Sequence[int]) -> str:
        """The text with a token in each gap; one that continues a word stands right behind it."""
        parts, end = "", 0
        for gap, token in zip(gaps, tokens, strict=True):
            before = text[end : gap["start"]]
            starts = bool(self.tokenizer.vocabulary.starts_word[token])
            parts += (before if starts else before.rstrip()) + self._written(token)
            end = gap["end"]
        return parts + text[end:]

    def _written(self, token: int) -> str:
        name = self.tokenizer.tokens([token])[0]
        return self.tokenizer.decode([token]).strip().removeprefix("##") or name

"""perplexity: how natural a text is to a masked-LM (Salazar et al., "Masked Language Model Scoring", 1910.14659).

    PLL(w) = sum over t of log p(w_t | w without w_t)        perplexity = exp(-PLL / number of tokens)

Each token is masked in turn, so that a text of n tokens costs n rows. Special tokens are not scored. The perplexity of
a set of texts is exp(-sum of pll / sum of tokens). Of a text with more tokens than a row each is read in the middle of
the tokens around it, as many as a row holds, and at either end of the text in the row that begins or ends there: all
are scored, each once, and with as much on both sides as there can be. An empty text has no tokens, a PLL of 0 and no
perplexity (null).
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.bundle import Bundle
from bertjax.data.labelled.examples import Example, Row, Target
from bertjax.predict.base import Answer, Column, Item, Part, Pipeline
from bertjax.predict.filling import Masked
from bertjax.types import Array, Batch

LARGEST = 700.0  # nats: the exponential of more is no number


@dataclasses.dataclass(frozen=True)
class Perplexity(Pipeline):
    """Pseudo-log-likelihood and perplexity of texts, each token masked in turn."""

    characters: int = 50_000
    """Characters of a text that are read at most: each of its tokens takes a row."""
    tokens: bool = False
    """Tell the log-probability of every token, too."""

    columns: ClassVar[Mapping[str, Column]] = {"text": Column("the text")}

    def open(self, bundle: Bundle, length: int) -> "Likelihood":
        """Needs a masked-LM head."""
        return Likelihood(self, bundle, length)

    def lines(self, answer: Answer) -> Iterator[str]:
        """One line, and one for each token that is told."""
        value = "none" if answer["perplexity"] is None else f"{answer['perplexity']:.2f}"
        yield f"perplexity {value}, log-likelihood {answer['pll']:.2f} of {answer['tokens']} tokens"
        for one in answer.get("each", ()):
            yield f"{one['log_probability']:8.2f}  {one['token']}"


class Likelihood(Masked):
    """A row for each token of a text."""

    chunk = 1

    def __init__(self, options: Perplexity, bundle: Bundle, length: int) -> None:
        super().__init__(options, bundle, length, "perplexity")
        self.targets = {"gaps": Target(np.int32, (1,)), "token": Target(np.int32)}
        self.each = options.tokens

    def encode(self, items: Sequence[Item]) -> list[Example]:
        """Every token of every text, hidden once, in the row around it."""
        found, room = [], self.length - self.template.special(1)
        encoded = self.tokenizer.encode_with_offsets([item.values["text"] for item in items])
        for index, (tokens, offsets) in enumerate(encoded):
            last = max(len(tokens) - room, 0)  # where the row begins that ends with the text
            for place, token in enumerate(tokens.tolist()):
                start = min(max(place - room // 2, 0), last)
                row, types, (begin, _) = self.template.row(tokens[start : start + room])
                gap = begin + place - start
                row[gap] = self.tokenizer.vocabulary.mask
                targets = {"gaps": [gap], "token": token}
                found.append(Example((Row(row, types),), targets, index, (token, offsets[place])))
        return found

    def outcomes(self, outputs: Mapping[str, Any], batch: Batch) -> Mapping[str, Array]:
        """The log-probability of what was hidden."""
        logs = jax.nn.log_softmax(outputs[self.head][:, 0, : self.tokenizer.vocabulary.size])
        token = batch.targets[self.name]["token"]
        return {"log_probability": jnp.take_along_axis(logs, token[:, None], axis=-1)[:, 0]}

    def told(self, item: Item, found: Sequence[Part]) -> Answer:
        """Sums and means."""
        del item
        logs = [float(part.values["log_probability"]) for part in found]
        pll = math.fsum(logs)
        mean = -pll / len(logs) if logs else LARGEST
        perplexity = math.exp(mean) if mean < LARGEST else None
        answer: Answer = {"pll": pll, "tokens": len(logs), "perplexity": perplexity}
        if self.each:
            names = self.tokenizer.tokens(part.about[0] for part in found)
            places = (part.about[1].tolist() for part in found)
            answer["each"] = [
                {"token": name, "start": start, "end": end, "log_probability": log}
                for name, log, (start, end) in zip(names, logs, places, strict=True)
            ]
        return answer

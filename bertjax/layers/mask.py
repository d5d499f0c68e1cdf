"""Who may attend to whom, as a symbol: padding, packed documents, causality and windows, combined with `&`.

Query i may see key j when every part allows it:

    padding   j is a real token
    segments  i and j belong to the same packed document
    causal    j <= i
    window    -left <= j - i <= right, or i or j is a global token

A mask is turned into a matrix only by what needs one (`matrix`); what works on chosen pairs asks for those alone
(`pairs`). Without global tokens all parts lower to one interval of keys [start, end) per query (`intervals`), which
costs O(B L) and is what block-skipping kernels take.
"""

import dataclasses

import jax
import jax.numpy as jnp

from bertjax.types import Array, Bool, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AttentionMask:
    """A conjunction of rules; a part that is None forbids nothing."""

    valid: Array | None = None  # bool [B M], True at real tokens
    segments: Array | None = None  # int [B L], non-decreasing from 1 over the real tokens
    causal: bool = dataclasses.field(default=False, metadata={"static": True})
    window: tuple[int, int] | None = dataclasses.field(default=None, metadata={"static": True})  # left, right
    globals: Array | None = None  # bool [B L], tokens that no window holds back, as query or as key

    def __and__(self, other: "AttentionMask") -> "AttentionMask":
        """What both allow."""
        windows = [w for w in (self.window, other.window) if w is not None]
        if self.segments is not None and other.segments is not None:
            raise ValueError("two masks with segments cannot be combined: give the segments once")
        if self.globals is not None and other.globals is not None:
            raise ValueError("two masks with global tokens cannot be combined: give the global tokens once")
        valid = other.valid if self.valid is None else self.valid
        if self.valid is not None and other.valid is not None:
            valid = self.valid & other.valid
        return AttentionMask(
            valid=valid,
            segments=other.segments if self.segments is None else self.segments,
            causal=self.causal or other.causal,
            window=(min(w[0] for w in windows), min(w[1] for w in windows)) if windows else None,
            globals=other.globals if self.globals is None else self.globals,
        )

    def matrix(self, length: int, key_length: int) -> Bool[Array, "#B 1 #L M"]:
        """True where attention is allowed, broadcastable to [B H L M]."""
        allowed = jnp.ones((1, 1, 1, key_length), bool)
        if self.valid is not None:
            allowed = allowed & self.valid[:, None, None, :]
        if self.segments is not None:
            allowed = allowed & (self.segments[:, None, :, None] == self.segments[:, None, None, :])
        if self.causal or self.window is not None:
            distance = (jnp.arange(key_length)[None, :] - jnp.arange(length)[:, None])[None, None]
            special = (
                None
                if self.globals is None
                else (self.globals[:, None, :, None], self.globals[:, None, None])
            )
            allowed = allowed & self._in_order(distance, special)
        return allowed

    def pairs(
        self, query: Int[Array, "#B *#n l 1"], key: Int[Array, "#B *#n 1 m"]
    ) -> Bool[Array, "#B *#n l m"]:
        """True where the query at that index may see the key at that index; an index outside the row sees nothing."""
        allowed = (query >= 0) & (key >= 0)
        ends = [x.shape[1] for x in (self.valid, self.segments) if x is not None]
        if ends:
            allowed = allowed & (query < ends[0]) & (key < ends[0])
        if self.valid is not None:
            allowed = allowed & _at(self.valid, key)
        if self.segments is not None:
            allowed = allowed & (_at(self.segments, query) == _at(self.segments, key))
        if self.causal or self.window is not None:
            special = None if self.globals is None else (_at(self.globals, query), _at(self.globals, key))
            allowed = allowed & self._in_order(key - query, special)
        return allowed

    def behind(self, number: int, rows: int) -> "AttentionMask":
        """The mask of rows that begin with so many more positions, which are real and of the first document."""
        front = jnp.ones((rows, number), bool)

        def joined(first: Array, rest: Array | None) -> Array | None:
            return None if rest is None else jnp.concatenate([first.astype(rest.dtype), rest], 1)

        return dataclasses.replace(
            self,
            valid=joined(front, self.valid),
            segments=joined(front, self.segments),
            globals=joined(~front, self.globals),
        )

    def _in_order(
        self, distance: Int[Array, "..."], special: tuple[Array, Array] | None
    ) -> Bool[Array, "..."]:
        """What causality and the window allow at a distance, `special` telling global queries and keys."""
        allowed: Array = jnp.ones((1,) * distance.ndim, bool)
        if self.window is not None:
            allowed = (distance >= -self.window[0]) & (distance <= self.window[1])
            if special is not None:
                allowed = allowed | special[0] | special[1]
        return allowed & (distance <= 0) if self.causal else allowed

    def intervals(self, length: int, rows: int) -> tuple[Int[Array, "B L"], Int[Array, "B L"]]:
        """The keys [start, end) that each query may see, where padding stands at the end of each row."""
        if self.globals is not None and self.window is not None:
            raise ValueError(
                "global tokens in a window are not one interval of keys: use attention longformer"
            )
        index = jnp.arange(length, dtype=jnp.int32)[None, :]
        start, end = jnp.zeros((rows, length), jnp.int32), jnp.full((rows, length), length, jnp.int32)
        if self.segments is not None:
            same = self.segments[:, 1:] == self.segments[:, :-1]
            edge = jnp.ones((rows, 1), bool)
            first = jnp.concatenate([edge, ~same], 1)  # where a segment begins
            last = jnp.concatenate([~same, edge], 1)  # where a segment ends
            start = jax.lax.cummax(jnp.where(first, index, 0), axis=1)
            end = jax.lax.cummin(jnp.where(last, index + 1, length), axis=1, reverse=True)
        if self.valid is not None:
            end = jnp.minimum(end, self.valid.sum(1, keepdims=True, dtype=jnp.int32))
        if self.window is not None:
            start = jnp.maximum(start, index - self.window[0])
            end = jnp.minimum(end, index + self.window[1] + 1)
        if self.causal:
            end = jnp.minimum(end, index + 1)
        return start, jnp.maximum(start, end)

    def backwards(self, length: int, rows: int) -> Int[Array, "B L"]:
        """For every position the one it changes places with when each document is read from its end."""
        start, end = AttentionMask(valid=self.valid, segments=self.segments).intervals(length, rows)
        index = jnp.arange(length, dtype=jnp.int32)[None, :]
        return jnp.where((start <= index) & (index < end), start + end - 1 - index, index)


def _at(x: Array, index: Int[Array, "..."]) -> Array:
    """x [B L] at index [1 or B, ...]; an index outside reads the nearest."""
    if index.shape[0] == 1:
        return jnp.take(x, index[0], axis=1, mode="clip")
    flat = index.reshape(index.shape[0], -1)
    return jnp.take_along_axis(x, jnp.clip(flat, 0, x.shape[1] - 1), axis=1).reshape(index.shape)

"""Whether probabilities mean what they say: of all predictions made with 80 %, 80 % should be right.

    ECE = Σ_m  n_m / n · | accuracy(m) − confidence(m) |

over M bins ((m-1)/M, m/M] of the confidence, which is the probability of the predicted class (Guo et al.,
2017, "On calibration of modern neural networks", equation 3; 15 bins there and here). A bin without
predictions contributes nothing.
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from bertjax.scores.counts import divide
from bertjax.scores.inputs import check_lengths, check_number
from bertjax.types import Float

__all__ = ["Reliability", "expected_calibration_error", "reliability"]


@dataclasses.dataclass(frozen=True)
class Reliability:
    """What a reliability diagram draws; 0 in bins without predictions."""

    share: Float[np.ndarray, "M"]  # of all predictions
    confidence: Float[np.ndarray, "M"]  # mean
    accuracy: Float[np.ndarray, "M"]


def reliability(probabilities: ArrayLike, labels: ArrayLike, *, bins: int = 15) -> Reliability:
    """Share, mean confidence and accuracy of every bin of confidence, from probabilities [B C]."""
    check_number("bins", bins)
    found, wanted = np.asarray(probabilities, np.float64), np.asarray(labels)
    if found.ndim != 2 or wanted.ndim != 1:
        raise ValueError(
            f"probabilities of shape {list(found.shape)}, labels of {list(wanted.shape)}: [B C] and [B]"
        )
    check_lengths(found, wanted, what="labels")
    # 1e-2: probabilities stored in bfloat16 add up no better.
    bad = np.flatnonzero(~((np.abs(found.sum(1) - 1) <= 1e-2) & (found >= 0).all(1)))
    if len(bad):
        raise ValueError(
            f"row {bad[0]} is {found[bad[0]].round(3).tolist()}, no probabilities: give softmax(logits)"
        )
    confidence = np.minimum(found.max(1), 1.0)
    right = found.argmax(1) == wanted
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    number = np.bincount(place, minlength=bins)
    return Reliability(
        share=number / len(found),
        confidence=divide(np.bincount(place, confidence, bins), number),
        accuracy=divide(np.bincount(place, right, bins), number),
    )


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, *, bins: int = 15) -> float:
    """The mean distance of confidence and accuracy, 0 to 1."""
    found = reliability(probabilities, labels, bins=bins)
    return float((found.share * np.abs(found.accuracy - found.confidence)).sum())

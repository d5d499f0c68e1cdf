"""Scores of whole sets of predictions: what the field reports, equal to the tool it reports them with.

Pure numpy on the host: `bertjax.metrics` is what adds up inside a step, this is what a finished evaluation
is worth.

Rules that hold for every score here:

- It is a fraction, 1 is perfect. SQuAD's script and sacrebleu print a hundred times that.
- Predictions come first, what they should have been second.
- Nothing to score, or two lengths that differ, is a ValueError: no set has a score by default.
- A ratio with nothing below the line is 0, as in scikit-learn and seqeval: the precision of a class that was never
  predicted, the F1 of entities where there are none. A correlation with a constant is nan, as in scipy.
- Where a score is a mean over examples, a function gives the value of each example, for `significance`.
"""

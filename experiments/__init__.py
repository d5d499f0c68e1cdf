"""One runnable file per run: a docstring that says what, why, how long and what to expect, and a config."""

"""Which cases of a parametrised test run always; the rest run with --slow.

A property that holds for dozens of cases is watched every time where it is likeliest to break, and everywhere by
`bash launch/test.sh --slow`.
"""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def slow_but(cases: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """All cases for `parametrize`, those that are not quick behind the mark."""
    cases = list(cases)
    unknown = [case for case in quick if case not in cases]
    assert not unknown, f"no such cases: {unknown}"
    apart = [case if isinstance(case, tuple) else (case,) for case in cases]  # a tuple is for several names
    marked = [pytest.param(*values, marks=pytest.mark.slow) for values in apart]
    return [case if case in quick else mark for case, mark in zip(cases, marked, strict=True)]

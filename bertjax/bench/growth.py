"""How a price grows with the length: the exponent a of  price = c · length^a,  by least squares in the logarithms."""

from collections.abc import Mapping

import numpy as np


def exponent(prices: Mapping[int, float | None], first: int, last: int) -> float | None:
    """The fitted exponent between two lengths; None where fewer than two prices are known."""
    points = [(length, price) for length, price in prices.items() if first <= length <= last and price]
    if len(points) < 2:
        return None
    lengths, values = np.log(np.asarray(points, np.float64)).T
    return float(np.polyfit(lengths, values, 1)[0])

"""Prices: what parts of a model cost, measured alone. `python -m bertjax bench NAME` runs `NAME.py`."""

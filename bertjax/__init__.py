"""bertjax: pretrain, fine-tune and take apart BERT-family encoders in JAX."""

from typing import Any

__all__ = ["load"]


def load(path: str, **options: Any) -> Any:
    """The model in a folder of any kind, with its tokenizer: see `bertjax.bundle.load` for the options."""
    from bertjax.bundle import load

    return load(path, **options)

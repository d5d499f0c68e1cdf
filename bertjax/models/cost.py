"""What a step costs, by formula.

Floating-point operations of a training step, forward and backward, with N the encoder's matrix parameters (no
embeddings), c the mean number of tokens a token attends to, and p the share of tokens that are predicted:

    per token = 6 N + 12 c H K layers + 6 p (D V + D²)

XLA's own cost analysis counts the body of a scan once, so a formula it is.
"""

from bertjax.layers.config import EncoderConfig


def matrix_parameters(config: EncoderConfig) -> int:
    """Parameters of the stack that take part in a matrix product with every token."""
    attention = 4 * config.width * config.heads * config.key_size
    return config.layers * (attention + 2 * config.width * config.hidden)


def flops_per_token(config: EncoderConfig, *, attended: float, predicted: float) -> float:
    """Operations of one training step per token."""
    mixing = 12 * attended * config.heads * config.key_size * config.layers
    head = 6 * predicted * config.width * (config.rows + config.width)
    return 6 * matrix_parameters(config) + mixing + head

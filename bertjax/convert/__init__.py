"""Weights and tokenizers of other projects, in both directions."""

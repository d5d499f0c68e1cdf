"""From text to batches: sources, tokenizers, the prepared corpus, examples and the loader. Nothing here knows a model."""

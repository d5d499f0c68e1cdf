"""From text to batches: sources, tokenizers, prepared corpora, formats, the loader. Nothing here knows a model."""

"""Records with labels: reading them, checking them, and their way into batches of few lengths; knows no model."""

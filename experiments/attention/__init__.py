"""Every attention on one small base: `full` is the base, the others are an edit of it, `sweep` runs them all."""

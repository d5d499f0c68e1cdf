"""Tables of papers: one file a table, one row a run."""

"""Tasks, one per file; the folder is their registry."""

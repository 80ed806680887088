"""Training runs, and what becomes of their weights."""

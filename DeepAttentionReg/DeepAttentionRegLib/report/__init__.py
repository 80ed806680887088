"""The report of a registration."""

"""The parts of pareto.py: what is compared, on which pairs, by which processes, and what is told of it."""

"""Registers a pair of volumes: alignment, working grid, method, refinement, measures."""

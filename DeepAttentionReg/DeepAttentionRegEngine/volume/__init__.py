"""Volumes, their grids, points, fields and measures: NumPy and SimpleITK, without PyTorch."""

"""Deformations as tensors: warping, composing, losses, and refining one pair."""

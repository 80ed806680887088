"""Nodes of the scene to arrays and files, and back."""

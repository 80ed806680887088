"""The panel, one section a file."""

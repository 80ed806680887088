"""Experiments: base files, one sweep file of what differs from them, and the dataclasses that they fill."""

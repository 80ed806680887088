"""Trains, measures and exports the networks whose weights the extension ships; `python -m training` has the commands.

Packages, lowest first: configs (what an experiment is), data (cases, batches), objectives (what a step computes),
run (training and export), measure (figures, tables, pictures).
"""

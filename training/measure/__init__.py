"""How well trained networks register: figures, tables of results, plots."""

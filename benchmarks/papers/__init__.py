"""The experiments of the papers on the starter, each repeated with at least three seeds and equal budgets."""

"""Numbers and their gates: metrics, the store of a checkout, baselines, targets, tables of them."""

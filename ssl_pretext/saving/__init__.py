"""Files that saved tasks and representations have in common: weights, contracts, and a memory limit for loading."""

"""What saved tasks and saved representations have in common: weights, contracts and a memory limit for loading."""

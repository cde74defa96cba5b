"""The documented Food-101 experiment: `python -m benchmarks.food101`."""

"""Comparison of all pretext tasks of the library by the same probes: `python -m benchmarks.pretext`."""

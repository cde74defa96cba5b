"""Every pretext task of the library under the same judge: `python -m benchmarks.pretext`."""

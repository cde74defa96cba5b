"""How often the judge claims a difference that is not there: `python -m benchmarks.calibration`."""

"""Evidence on images that ImageNet's networks were not made for: `python -m benchmarks.evidence cells`."""

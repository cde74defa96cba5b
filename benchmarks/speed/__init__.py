"""Speed and memory of ssl_pretext compared with the alternatives that a user has: `python -m benchmarks.speed`."""

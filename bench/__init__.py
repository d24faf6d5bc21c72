"""Benchmarks: each figure is a ratio to a baseline timed in the same run, alternating with it, medians of several. `python -m bench` prints them."""

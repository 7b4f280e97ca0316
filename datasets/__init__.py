"""Data as one tensor in memory: image sets and points."""

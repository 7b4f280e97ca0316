"""Annexes of ddpm.py: schedules, completions, likelihood, the fast network."""

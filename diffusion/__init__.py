"""What ddpm.py needs besides the class itself: schedules, conditions, completions, likelihood, the fast network."""

"""Figures that show what a model has learnt."""

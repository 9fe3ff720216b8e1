"""Scores of a, b and their ensemble."""

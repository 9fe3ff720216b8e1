"""Pseudo labels: made between phases or at every update, and checked for signs of collapse."""

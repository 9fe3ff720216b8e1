"""Pseudo labels: made between the phases or at every step, and looked at for signs of collapse."""

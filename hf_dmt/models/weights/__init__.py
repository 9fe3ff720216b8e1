"""Copies and averages of a pair's weights, and which weights are trained."""

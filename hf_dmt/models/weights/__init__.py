"""Copies and averages of a pair's weights, and which of them are trained."""

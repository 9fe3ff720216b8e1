"""Decide which images are labeled, unlabeled and held out, and what the classes are called."""

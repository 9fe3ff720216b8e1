"""Image data: sources, splits, transforms, the pseudo-label store and batches.

A list called `notes` collects messages for the user: automatic choices, what is skipped, and warnings. Functions that
take it append to it.
"""

"""Image data: sources, splits, transforms, the pseudo-label store and batches."""

"""Images in: sources, splits, transforms, the pseudo-label store and batches."""

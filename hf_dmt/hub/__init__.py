"""What is published: model cards, staged pushes, the pseudo-label store as a data set."""

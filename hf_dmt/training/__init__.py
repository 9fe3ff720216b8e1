"""Train a pair: the phases within a stock Trainer, with settings, labeling, scoring and the run on disk."""

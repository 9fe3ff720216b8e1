"""Train a pair: the phases inside one stock Trainer, with settings, labeling, scoring and the run on disk."""

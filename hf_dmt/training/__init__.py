"""The phases, run inside one stock Trainer: arguments, labeling, metrics, callbacks."""

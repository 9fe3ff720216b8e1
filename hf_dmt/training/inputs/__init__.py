"""The arguments of the trainer: validated and normalized."""

"""What a user hands to the trainer: checked, and brought into one form."""

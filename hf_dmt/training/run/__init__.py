"""One run on one machine: its folder, records, checkpoints, interruptions and errors."""

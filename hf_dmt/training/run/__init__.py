"""Everything around a run on disk: its folder, records, checkpoints, interruptions and errors."""

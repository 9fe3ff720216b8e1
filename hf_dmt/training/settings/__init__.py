"""Settings of a run: their declarations, presets, arguments and command line."""

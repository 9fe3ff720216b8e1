"""The parts of `hf-dmt compare`: which runs there are, and what they say together."""

"""Two models as one: the pair, its weight averages, and the builtin networks."""

"""Labels that are not the data set's own: what the members said, and what people answered."""

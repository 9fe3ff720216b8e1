"""Labels that are not from the data set: the members' predictions, and people's answers."""

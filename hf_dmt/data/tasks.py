"""What differs between the two tasks, in one place."""

IGNORE_INDEX = -100

"""What differs between the two tasks, in one place."""

IGNORE_INDEX = -100

# What is compared and logged for a task: a fraction in [0, 1].
PRIMARY_METRIC = {"image-classification": "accuracy", "semantic-segmentation": "mean_iou"}

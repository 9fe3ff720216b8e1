"""Choose which image is drawn when, and turn it into a training sample or a clean image."""

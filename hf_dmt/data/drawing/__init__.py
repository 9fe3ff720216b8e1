"""Which image is drawn when, and how it becomes a training sample or a clean image."""

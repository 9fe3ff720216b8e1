"""Two models as one: the pair, its weight averages, and the builtin networks."""

# Imported here, so that no Auto class meets a folder of theirs before they are registered. It costs 40 ms.
from .networks import deeplab_v2, wide_resnet

__all__ = ["deeplab_v2", "wide_resnet"]

"""Two models as one module: the pair, weight averages, and embedded networks."""

# Imported here so that their classes are registered before any Auto class loads a saved folder. It costs 40 ms.
from .networks import deeplab_v2, wide_resnet

__all__ = ["deeplab_v2", "wide_resnet"]

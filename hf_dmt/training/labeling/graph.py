"""Labels spread over a graph of images that look alike to both members (`--labeler graph`).

Every image is a node, joined to those whose features are nearest. The true labels of the labeled images flow along the
edges until nothing changes (Zhou et al. 2004, "Learning with Local and Global Consistency"). What reaches an image is a
distribution over the classes, which is used as a member's own would be.

Memory: the features of all images on the main process, 4 bytes a number (10 KB an image for two networks with 1,280
features each), and 30 edges a node. Time grows with the square of the nodes: seconds for 2,000 images on one CPU core,
about a minute for the 20,000 that are nodes at most. Of a larger set as many are drawn as nodes, and every other image
takes the mean of its neighbors among them.
"""

from __future__ import annotations

import warnings

import numpy as np

GRAPH = "graph"  # the maker's name beside a and b
NEIGHBORS = 30
KEPT = 0.95  # share of a node's label that comes from its neighbors in each round; the rest is its own true label
MOST_NODES = 20_000
MOST_IMAGES = 200_000
_UNLABELED = -1


def check_size(num_unlabeled: int) -> None:
    """Raise a ValueError for more images than can be labeled this way."""
    if num_unlabeled > MOST_IMAGES:
        raise ValueError(
            f"`labeler='graph'` holds the features of all unlabeled images in memory and compares each with "
            f"{MOST_NODES:,} others; {num_unlabeled:,} images are more than the {MOST_IMAGES:,} it is made for. Use "
            "`labeler='peer'`, or give fewer unlabeled images."
        )


def joined(features: list[np.ndarray]) -> np.ndarray:
    """Features of several members, `(N, D)` each, side by side, each brought to length 1 so that all count alike."""
    lengths = [np.linalg.norm(part, axis=1, keepdims=True) for part in features]
    parts = [part / np.maximum(length, 1e-12) for part, length in zip(features, lengths, strict=True)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def spread_labels(
    labeled: np.ndarray, labels: np.ndarray, unlabeled: np.ndarray, classes: int, *, most_nodes: int = MOST_NODES
) -> np.ndarray:
    """What the true labels say of the unlabeled images.

    Args:
        labeled: `(L, D)` features. labels: `(L,)` their classes. unlabeled: `(N, D)` features.
        most_nodes: of more unlabeled images than this, evenly spaced ones are nodes and the others ask their neighbors.

    Returns:
        `(N, C)` float32 distributions. An image that no label reaches has the same probability for all classes.
    """
    # Imported here: with SciPy it takes a second, which every command would wait for.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.semi_supervised import LabelSpreading

    nodes = np.arange(len(unlabeled))
    if len(nodes) > most_nodes:
        nodes = np.linspace(0, len(unlabeled) - 1, most_nodes).astype(int)
    others = np.setdiff1d(np.arange(len(unlabeled)), nodes)
    total = len(labeled) + len(nodes)
    graph = LabelSpreading(kernel="knn", n_neighbors=min(NEIGHBORS, total - 1), alpha=KEPT, max_iter=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # after 200 rounds 0.95^200 of a label is on its way
        warnings.filterwarnings("ignore", message="invalid value encountered", category=RuntimeWarning)
        graph.fit(
            np.concatenate([labeled, unlabeled[nodes]]),
            np.concatenate([labels, np.full(len(nodes), _UNLABELED)]),
        )
        spread = np.zeros((len(unlabeled), classes), dtype=np.float64)
        spread[np.ix_(nodes, graph.classes_)] = graph.label_distributions_[len(labeled) :]
        if len(others):
            spread[np.ix_(others, graph.classes_)] = graph.predict_proba(unlabeled[others])
    spread = np.nan_to_num(spread)
    reached = spread.sum(axis=1, keepdims=True)
    return np.where(reached > 0, spread / np.maximum(reached, 1e-12), 1 / classes).astype(np.float32)

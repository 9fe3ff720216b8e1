"""Labels propagated over a graph of similar images (`--labeler graph`).

Every image is a node, connected to the images with the nearest features. The true labels of the labeled images are
propagated along the edges until they converge (Zhou et al. 2004, "Learning with Local and Global Consistency"). Each
image receives a distribution over the classes, which is used like the prediction of a model.

Memory: the features of all images on the main process, 4 bytes per number (10 KB per image for two networks with 1,280
features each), and 30 edges per node. Time grows with the square of the number of nodes: seconds for 2,000 images on
one CPU core, about a minute for the maximum of 20,000 nodes. In a larger set, 20,000 images are chosen as nodes, and
every other image takes the mean of its neighbors among them.
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
    """Raise a ValueError for too many images."""
    if num_unlabeled > MOST_IMAGES:
        raise ValueError(
            "`labeler='graph'` keeps the features of all unlabeled images in memory and compares each with "
            f"{MOST_NODES:,} others; it supports up to {MOST_IMAGES:,} images, got {num_unlabeled:,}. Use "
            "`labeler='peer'`, or fewer unlabeled images."
        )


def joined(features: list[np.ndarray]) -> np.ndarray:
    """Concatenate the features of several models, `(N, D)` each, after scaling each to length 1 so that all count
    equally."""
    lengths = [np.linalg.norm(part, axis=1, keepdims=True) for part in features]
    parts = [part / np.maximum(length, 1e-12) for part, length in zip(features, lengths, strict=True)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def spread_labels(
    labeled: np.ndarray, labels: np.ndarray, unlabeled: np.ndarray, classes: int, *, most_nodes: int = MOST_NODES
) -> np.ndarray:
    """Propagate the true labels to the unlabeled images.

    Args:
        labeled: `(L, D)` features.
        labels: `(L,)` their classes.
        unlabeled: `(N, D)` features.
        most_nodes: with more unlabeled images than this, evenly spaced ones are nodes, and the others use their
            neighbors.

    Returns:
        `(N, C)` float32 distributions. An image that no label reaches has equal probabilities for all classes.
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
        warnings.simplefilter("ignore", ConvergenceWarning)  # after 200 rounds only 0.95^200 of a label is still moving
        warnings.filterwarnings("ignore", message="invalid value encountered", category=RuntimeWarning)
        graph.fit(
            np.concatenate([labeled, unlabeled[nodes]]), np.concatenate([labels, np.full(len(nodes), _UNLABELED)])
        )
        spread = np.zeros((len(unlabeled), classes), dtype=np.float64)
        spread[np.ix_(nodes, graph.classes_)] = graph.label_distributions_[len(labeled) :]
        if len(others):
            spread[np.ix_(others, graph.classes_)] = graph.predict_proba(unlabeled[others])
    spread = np.nan_to_num(spread)
    reached = spread.sum(axis=1, keepdims=True)
    return np.where(reached > 0, spread / np.maximum(reached, 1e-12), 1 / classes).astype(np.float32)

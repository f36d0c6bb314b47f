"""A linear probe: how well a straight cut tells the classes apart on prompts it has not seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.geometry.distances import Labels, Points

FOLDS = 5


def probe_scores(points: Points, safe: Labels, seed: int = 0) -> NDArray[np.float64]:
    """Cross-validated log-odds (n,) that each point is safe, from probes fitted without it.

    Each dimension is scaled by its deviation in the other folds. Needs FOLDS points in each class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scores = np.zeros(len(safe))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for seen, held in folds.split(points, safe):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
        probe.fit(points[seen], safe[seen])
        margin = probe.decision_function(points[held])
        # Each fold has a probe of its own, whose scale is not that of the others.
        scores[held] = margin / max(float(np.std(margin)), 1e-12)
    return scores


def auc(scores: NDArray[np.float64], safe: Labels) -> float:
    """Chance that a safe point scores above an unsafe one; 0.5 for equal scores."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(safe, scores))

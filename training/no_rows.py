"""Why no request of a fold gave the ranker a row, and which setting would help."""

from typing import Final

import numpy as np

from recsys.splits import Fold
from training.fitting import Corpus

_PURPOSES: Final = {Fold.LABEL: "train on", Fold.VALID: "stop its training by"}
_NAMES: Final = {Fold.LABEL: "label fold", Fold.VALID: "validation fold"}
_SHARES: Final = {Fold.LABEL: "label", Fold.VALID: "valid"}


def why_no_rows(corpus: Corpus, fold: Fold, n_requests: int) -> str:
    """Return in one sentence why nothing of a fold became a row, and what can be done.

    fold: LABEL or VALID. n_requests: labelled requests there were; where there were some, retrieval found nothing of
    what was wanted.
    """
    config = corpus.config
    remedies = [_larger_fold(corpus, fold)]
    if n_requests:
        cause = f"none of its {n_requests:,} requests has anything that was wanted among its candidates"
        remedies.insert(
            0,
            f"raise retrieval.n_candidates (now {config.retrieval.n_candidates}) and retrieval.per_source "
            f"(now {config.retrieval.per_source})",
        )
    elif corpus.rows == "impressions":
        cause = _of_lists(corpus, fold)
        if (corpus.split.interaction_fold == fold).any():
            remedies.append("set ranker.rows to retrieved")
    elif corpus.rows == "retrieved":
        n = int((corpus.split.interaction_fold == fold).sum())
        cause = f"of its {n:,} interactions none leads to an item that is new to its user"
    elif corpus.rows == "held_out":
        cause = "none of its users has both a history and a held-out item that is new to them"
        remedies = [_larger_fold(corpus, Fold.LABEL), "set ranker.rows to retrieved"]
    else:
        cause = f"none of its users chose both some of the {len(corpus.pseudo_cold_idx):,} hidden items and others"
        remedies = [
            f"raise ranker.pseudo_cold_share (now {config.ranker.pseudo_cold_share:g})",
            "set ranker.rows to retrieved",
        ]
    return (
        f"the ranker has no rows to {_PURPOSES[fold]} ({_NAMES[fold]}, ranker.rows: {corpus.rows}): {cause}; "
        f"{', '.join(remedies)}, or bring more feedback"
    )


def _of_lists(corpus: Corpus, fold: Fold) -> str:
    impressions, request_fold = corpus.data.impressions, corpus.split.request_fold
    if impressions is None or request_fold is None:
        return "no list was shown"
    n_clicked = np.bincount(impressions.row_request, weights=impressions.clicked, minlength=len(impressions))
    of_fold = request_fold == fold
    n_without = int((of_fold & (n_clicked == 0)).sum())
    n_full = int((of_fold & (n_clicked == np.diff(impressions.indptr))).sum())
    return (
        f"of its {int(of_fold.sum()):,} lists {n_without:,} have no click and {n_full:,} nothing but clicks, and only "
        "one with both says what was preferred to what"
    )


def _larger_fold(corpus: Corpus, fold: Fold) -> str:
    split, name = corpus.config.split, _SHARES[fold]
    setting = f"{name}_share" if split.kind == "time" else f"n_{name}"
    return f"raise split.{setting} (now {getattr(split, setting):g})"

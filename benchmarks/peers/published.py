"""Figures that others have published and that a suite can be read beside. None of them was run here."""

from dataclasses import asdict, dataclass
from typing import Any, Final

_MS: Final = "Microsoft Recommenders, README, table of the benchmark on MovieLens 100k"
_RECTOOLS: Final = "RecTools, tutorial on HSTU, first of two tables, which is of MovieLens 1M by the tutorial's order"
_MIND: Final = "Microsoft Recommenders, example notebooks on news recommendation, MIND-demo, dev part"
_SAME_KIND: Final = (
    "same data and the same kind of split (75 % of each user's ratings at random to train) with other random numbers; "
    "one split; Spark, Surprise and others as set in the table's notebook; recall is divided by all relevant items"
)
_WHOLE_FILE: Final = (
    "the whole file of 6,040 users, of which the suite's data holds the 2,999 of one contiguous half; leave-one-out "
    "and the whole catalogue alike: an order of magnitude, not a comparison"
)
_OTHER_LOG: Final = (
    "another sample of the same log, in English, with embeddings trained elsewhere; five epochs, one run each; AUC is "
    "the mean over impressions: context, not a comparison"
)


@dataclass(frozen=True)
class Published:
    """One published row.

    comparable: whether data and protocol are near enough for the figures to stand in one table with ours. caveat: in
    which way they differ.
    """

    system: str
    metrics: dict[str, float]
    source: str
    comparable: bool
    caveat: str


def _ml_100k(system: str, map_10: float, ndcg: float, precision: float, recall: float) -> Published:
    metrics = {"map@10": map_10, "ndcg@10": ndcg, "precision@10": precision, "recall@10": recall}
    return Published(system, metrics, _MS, True, _SAME_KIND)


def _ml_1m(system: str, recall: float, ndcg: float) -> Published:
    return Published(system, {"hr@10": recall, "ndcg@10": ndcg}, _RECTOOLS, False, _WHOLE_FILE)


def _mind(system: str, auc: float, mrr: float, ndcg_5: float, ndcg_10: float) -> Published:
    metrics = {"auc": auc, "mrr": mrr, "ndcg@5": ndcg_5, "ndcg@10": ndcg_10}
    return Published(system, metrics, _MIND, False, _OTHER_LOG)


_ROWS: Final[dict[str, tuple[Published, ...]]] = {
    "ml-100k-random": (
        _ml_100k("ALS (Spark, explicit)", 0.0047, 0.0442, 0.0485, 0.0178),
        _ml_100k("SVD (Surprise)", 0.0129, 0.0959, 0.0912, 0.0328),
        _ml_100k("SAR", 0.1106, 0.3825, 0.3308, 0.1764),
        _ml_100k("NCF", 0.1077, 0.3961, 0.3473, 0.1808),
        _ml_100k("BPR (Cornac)", 0.1325, 0.4420, 0.3882, 0.2125),
        _ml_100k("LightGCN", 0.0885, 0.4198, 0.3796, 0.1443),
        _ml_100k("BiVAE", 0.1461, 0.4751, 0.4118, 0.2191),
        _ml_100k("embdotbias (fastai)", 0.0190, 0.1178, 0.1042, 0.0425),
    ),
    "ml-1m-loo": (
        _ml_1m("SASRec", 0.288, 0.162),
        _ml_1m("HSTU", 0.323, 0.188),
        _ml_1m("HSTU, large", 0.364, 0.216),
    ),
    "mind-zh-impressions": (
        _mind("LSTUR", 0.6462, 0.3031, 0.3349, 0.3983),
        _mind("NAML", 0.6272, 0.2846, 0.3100, 0.3760),
        _mind("NRMS", 0.6127, 0.2697, 0.2912, 0.3625),
        _mind("NPA", 0.6005, 0.2711, 0.2936, 0.3586),
        _mind("DKN", 0.5963, 0.2014, 0.2066, 0.2800),
    ),
}


def published_for(suite: str) -> list[dict[str, Any]]:
    """Return the published rows that a suite can be read beside, as plain values marked `published`."""
    return [{"published": True, **asdict(row)} for row in _ROWS.get(suite, ())]

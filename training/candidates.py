"""What the candidate sources find: each alone, and what is lost without it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from features.path import RankingPath
from recsys.retrieval.asked import Asked
from recsys.retrieval.blend import blend
from recsys.splits import Fold
from training.desk import seed_for
from training.fits import Fits
from training.fitting import requests_of
from training.requests import LabelledRequest
from training.side_by_side import in_blocks

Int32 = npt.NDArray[np.int32]


def candidate_recall(part: Fits) -> dict[str, Any]:
    """Return the recall of the sources on requests of the validation window.

    `all`: share of the relevant items among the `retrieval.n_candidates` of all sources together. Per source: `alone`,
    the share among the `retrieval.per_source` items that it proposes, `n` their mean number, and `adds`, what `all`
    would be less without it. Means over requests.
    """
    corpus, config = part.corpus, part.corpus.config
    path = RankingPath(part.models(Fold.LABEL))
    rng = np.random.default_rng(seed_for(config.seed, "rows to validate"))
    names = [source.name for source in path.sources]
    n_items = len(corpus.data.catalogue)

    def recall_of(_: int, block: Sequence[LabelledRequest]) -> list[tuple[dict[str, float], dict[str, int]]]:
        return [_recall_of_request(path, labelled, n_items) for labelled in block]

    requests = requests_of(corpus, Fold.VALID, config.evaluation.max_requests, rng)
    with threadpool_limits(limits=1):
        by_request = [one for block in in_blocks(requests, recall_of) for one in block]
    recall = {name: [shares[name] for shares, _ in by_request] for name in by_request[0][0]}
    found = {name: [counts[name] for _, counts in by_request] for name in names}
    mean = {name: round(float(np.mean(values)), 4) for name, values in recall.items()}
    table = {
        name: {
            "alone": mean[name],
            "n": round(float(np.mean(found[name])), 1),
            "adds": round(mean["all"] - mean[f"without {name}"], 4),
        }
        for name in names
    }
    return {"all": mean["all"], "n_requests": len(recall["all"]), "sources": table}


def _recall_of_request(
    path: RankingPath, labelled: LabelledRequest, n_items: int
) -> tuple[dict[str, float], dict[str, int]]:
    """Return the recall of all sources, of each and of all others, and how many items each proposes."""
    config, exclude = path.models.config.retrieval, labelled.exclude
    request = Asked.of(path.models, labelled.request)
    allowed = np.ones(n_items, np.bool_)
    allowed[exclude] = False

    def share(rows: Int32) -> float:
        return float(np.isin(labelled.relevant_idx, rows).mean())

    recall, found = {"all": share(path.candidates(request, exclude=exclude).item_idx)}, {}
    for source in path.sources:
        rows = source.retrieve(request, config.per_source, allowed)
        found[source.name] = len(rows)
        recall[source.name] = share(rows)
        others = [other for other in path.sources if other is not source]
        rest = blend(others, request, config, n_items=n_items, exclude=exclude)
        recall[f"without {source.name}"] = share(rest.item_idx)
    return recall, found

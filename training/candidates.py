"""What the candidate sources find: each alone, and what is lost without it."""

from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from features.path import RankingPath
from recsys.retrieval.asked import Asked
from recsys.retrieval.blend import blend
from recsys.splits import Fold
from training.desk import seed_for
from training.fits import Fits
from training.fitting import requests_of


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
    recall: dict[str, list[float]] = {name: [] for name in ("all", *names, *(f"without {name}" for name in names))}
    found: dict[str, list[int]] = {name: [] for name in names}
    with threadpool_limits(limits=1):
        for labelled in requests_of(corpus, Fold.VALID, config.evaluation.max_requests, rng):
            request, relevant, exclude = (
                Asked.of(path.models, labelled.request),
                labelled.relevant_idx,
                labelled.exclude,
            )

            allowed = np.ones(len(corpus.data.catalogue), np.bool_)
            allowed[exclude] = False

            def share(rows: np.ndarray, relevant: np.ndarray = relevant) -> float:
                return float(np.isin(relevant, rows).mean())

            recall["all"].append(share(path.candidates(request, exclude=exclude).item_idx))
            for name, source in zip(names, path.sources, strict=True):
                rows = source.retrieve(request, config.retrieval.per_source, allowed)
                found[name].append(len(rows))
                recall[name].append(share(rows))
                others = [other for other in path.sources if other.name != name]
                rest = blend(others, request, config.retrieval, n_items=len(corpus.data.catalogue), exclude=exclude)
                recall[f"without {name}"].append(share(rest.item_idx))
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

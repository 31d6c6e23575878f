"""Measures what reviews' texts say: the sentiment head against the base rate and TF-IDF, and what signals do to lists.

    .venv/bin/python benchmarks/sentiment.py --out benchmarks/results/sentiment.json

Reads amazon-gift-cards-5core from ../shared/data beside the project, the folder RECSYS_DATA names, or --data. The
encoder is the frozen default one, so that a figure is the head's. Nearly all of these reviews have five stars: the
counts of complaints beside every figure say how little there is to learn from and to be measured on.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from scipy.special import expit
from threadpoolctl import threadpool_limits

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from features.path import RankingPath  # noqa: E402
from recsys.config import Config  # noqa: E402
from recsys.datasets import load_dataset  # noqa: E402
from recsys.datasets.dataset import Dataset  # noqa: E402
from recsys.datasets.encoded import encode_dataset  # noqa: E402
from recsys.errors import DataError, RecsysError  # noqa: E402
from recsys.evaluation.classification import auc_interval  # noqa: E402
from recsys.evaluation.intervals import Interval, bootstrap_mean, paired_difference  # noqa: E402
from recsys.evaluation.metrics import pessimistic_ranks, ranking_metrics  # noqa: E402
from recsys.histories import MAX_REQUEST_HISTORY  # noqa: E402
from recsys.models.sentiment import RatingScale  # noqa: E402
from recsys.preset_files import preset_for  # noqa: E402
from recsys.splits import Fold, make_split  # noqa: E402
from training.desk import Desk, seed_for  # noqa: E402
from training.fits import Fits  # noqa: E402
from training.fitting import Corpus  # noqa: E402
from training.progress import Reporter  # noqa: E402
from training.requests import LabelledRequest, fold_ends, next_item_requests  # noqa: E402
from training.reviews import Events, read_texts  # noqa: E402
from training.sentiment import (  # noqa: E402
    MIN_REVIEWS,
    MIN_USERS,
    RatedReviews,
    SentimentFit,
    called_complaints,
    can_learn,
    choose_regularization,
    describe,
    fit_path,
    fit_sentiment,
)
from training.side_by_side import in_blocks  # noqa: E402
from training.signals import apply_signals  # noqa: E402
from training.system import train_on_past  # noqa: E402
from training.text import TextStage, run_text_stage  # noqa: E402
from training.timings import StageClock  # noqa: E402
from training.work import WorkFolder, stage_key  # noqa: E402

FOLDER = "amazon-gift-cards-5core"
SCALE = (1.0, 5.0)
COSTS = (1.0, 2.0, 5.0, 10.0, 20.0)
_N_BOOTSTRAP = 1_000
_N_SEEDS = 5


def benchmark_config(seed: int, sentiment: str) -> Config:
    """Return the preset for Amazon reviews with every rating kept and the encoder as it was published."""
    return preset_for("amazon").with_overrides(
        {
            "seed": seed,
            "data.min_rating": None,
            "data.rating_scale": list(SCALE),
            "data.sentiment": sentiment,
            "encoder.kind": "pretrained",
            "encoder.tune": "none",
            "encoder.max_length": 256,
        }
    )


def tfidf_held_out(
    texts: Sequence[str], is_positive: npt.NDArray[np.bool_], users: npt.NDArray[np.int32], fit: SentimentFit
) -> tuple[npt.NDArray[np.float64], list[float]]:
    """Return held-out probabilities of a logistic regression on TF-IDF of words and pairs of words, float64 `(n,)`.

    It gets what the head gets: the same users held out, and the same penalties to choose from on the same users inside
    each fold. The penalties chosen come second.
    """
    held_out, chosen = np.empty(len(texts)), []
    fold = np.array([fit.fold_of_user[int(user)] for user in users])
    for number, inner_of_user in enumerate(fit.inner_folds):
        inner = np.array([inner_of_user.get(int(user), -1) for user in users])  # -1 for those held out
        parts = []
        for part in sorted(set(inner_of_user.values())):
            known, tested = (inner >= 0) & (inner != part), inner == part
            x, x_tested = _tfidf(texts, known, tested)
            parts.append((x, is_positive[known], x_tested, is_positive[tested]))
        penalty = choose_regularization(parts)
        rows = fold == number
        x, x_tested = _tfidf(texts, ~rows, rows)
        parameters = fit_path(x, is_positive[~rows], penalty)[-1]
        held_out[rows] = expit(x_tested @ parameters[:-1] + parameters[-1])
        chosen.append(penalty)
    return held_out, chosen


def _tfidf(
    texts: Sequence[str], known: npt.NDArray[np.bool_], tested: npt.NDArray[np.bool_]
) -> tuple[csr_matrix, csr_matrix]:
    """Return the vectors of the known texts and of the tested ones; only the known ones say which words there are."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    x = vectors.fit_transform([texts[row] for row in np.flatnonzero(known)])
    return x, vectors.transform([texts[row] for row in np.flatnonzero(tested)])


def measure_head(dataset: Dataset, config: Config, desk: Desk, text: TextStage, key: str) -> dict[str, Any]:
    """Return how the head and TF-IDF do on held-out users, over all reviews and by number of stars.

    Raises:
        DataError: there are too few reviews with a rating and a text on either side of the scale's middle.
    """
    data = encode_dataset(dataset, config.data)
    events = Events.read(dataset, data.log)
    embedded = read_texts(events, data.log, text.encoder, config.data.max_review_texts, desk, key)
    rows = events.is_rated & embedded.readable(events)
    rating, users = events.rating[rows], data.log.user_idx[rows]
    reviews = RatedReviews(embedded.embeddings[events.text[rows]], rating, users, embedded.encoder_fingerprint)
    scale = RatingScale(*SCALE)
    if not can_learn(reviews, scale):
        raise DataError(
            f"{len(reviews)} reviews with a rating and a text are too few on one side of the middle of {SCALE[0]:g} to "
            f"{SCALE[1]:g}: at least {MIN_REVIEWS} by {MIN_USERS} users are needed on either; bring more reviews"
        )
    fit = desk.run("sentiment head", lambda _: fit_sentiment(reviews, scale, seed_for(config.seed, "sentiment")))
    is_positive = scale.signal(rating) > 0
    texts = [events.texts[place] for place in events.text[rows]]
    tfidf, penalties = tfidf_held_out(texts, is_positive, users, fit)
    rng = np.random.default_rng(seed_for(config.seed, "sentiment benchmark"))
    against = auc_interval(is_positive, fit.held_out, baseline=tfidf, clusters=users, n_bootstrap=_N_BOOTSTRAP, rng=rng)
    return {
        "head": fit.report,
        "tfidf": describe(is_positive, tfidf, fit.base_rate, users, rng) | {"regularization_by_fold": penalties},
        "auc_head_minus_tfidf": _bounds(against),
        "by_stars": _by_stars(rating, fit.score(reviews.embeddings, users).astype(np.float64)),
        "by_cost": _by_cost(is_positive, fit.held_out),
    }


def _by_stars(rating: npt.NDArray[np.float64], signal: npt.NDArray[np.float64]) -> dict[str, dict[str, float]]:
    """Return what texts alone say of reviews with each number of stars."""
    return {
        f"{stars:g}": {
            "n_reviews": int((rating == stars).sum()),
            "median_signal": float(np.median(signal[rating == stars])),
            "mean_weight": float(np.maximum(signal[rating == stars], 0.0).mean()),
            "share_called_complaints": float((signal[rating == stars] < 0).mean()),
        }
        for stars in np.unique(rating)
    }


def _by_cost(is_positive: npt.NDArray[np.bool_], probability: npt.NDArray[np.float64]) -> dict[str, dict[str, float]]:
    """Return what other complaint costs would give: the share of complaints found, and of calls that are right.

    The latter is NaN where nothing is called a complaint.
    """
    found = {}
    for cost in COSTS:
        counts = called_complaints(is_positive, probability, cost)
        called, rightly = counts["called_complaints"], counts["called_rightly"]
        found[f"{cost:g}"] = {
            "called": called,
            "recall": rightly / int((~is_positive).sum()),
            "precision": rightly / called if called else float("nan"),
        }
    return found


def measure_lists(dataset: Dataset, seed: int, text: TextStage, desk: Desk, key: str) -> dict[str, Any]:
    """Return list metrics of the whole system with signals and without, on the same requests.

    Every user's last event is asked for, after what preceded it. A user is left out, and counted, where a head takes
    that event for a complaint, or where nothing new is left to find. On so little data a ranker's seed moves the
    figures as much as anything, so each system is trained with several seeds and a request's value is their mean; the
    spread over seeds stands beside the interval over users.
    """
    by_seed: dict[str, list[npt.NDArray[np.float64]]] = {"signals": [], "off": []}
    liked_by_seed = []
    for number in range(_N_SEEDS):
        corpora = {
            name: _corpus(dataset, benchmark_config(seed + number, sentiment), text, desk, key)
            for name, sentiment in (("signals", "auto"), ("off", "off"))
        }
        everything = corpora["off"]
        test_rows = np.flatnonzero(everything.split.interaction_fold == Fold.TEST)
        wanted, users = everything.data.log.row[test_rows], everything.data.log.user_idx[test_rows]
        liked_by_seed.append(np.isin(wanted, corpora["signals"].data.log.row))
        for name, corpus in corpora.items():
            by_seed[name].append(_measure(corpus, wanted, desk, stage_key(key, name, number)))
    counts = {name: len(corpus.data.log) for name, corpus in corpora.items()}
    compared = _compare(by_seed, users, counts, np.random.default_rng(seed_for(seed, "lists")))
    is_liked = np.all(liked_by_seed, axis=0)
    left_out = {
        "last event is a complaint": int((~is_liked).sum()),
        "nothing new to find": int(is_liked.sum()) - compared["n_requests"],
    }
    return compared | {"users_left_out": left_out}


def _corpus(dataset: Dataset, config: Config, text: TextStage, desk: Desk, key: str) -> Corpus:
    data = encode_dataset(dataset, config.data)
    split = make_split(data.log, data.impressions, config.split)
    signals = apply_signals(dataset, data, split, text, config, desk, key)
    return Corpus(signals.data, signals.split, signals.config, text.embeddings, text.encoder, np.empty(0, np.int32))


def _measure(corpus: Corpus, wanted: npt.NDArray[np.int64], desk: Desk, key: str) -> npt.NDArray[np.float64]:
    """Return ndcg@10 of the full system on the interactions in rows `wanted` of the table.

    NaN where there is nothing to ask: the system has taken the interaction for a complaint, or nothing new is left.
    """
    log = corpus.data.log
    fits = Fits(corpus, desk)
    ranker = train_on_past([fits], desk, key).ranker
    place = {int(row): index for index, row in enumerate(log.row)}
    requests = [_request(corpus, place[int(row)]) if int(row) in place else None for row in wanted]
    path = RankingPath(fits.models(Fold.TEST).with_ranker(ranker))
    with threadpool_limits(limits=1):
        return desk.run("evaluation", lambda _: _ndcg(path, requests))


def _request(corpus: Corpus, target: int) -> LabelledRequest | None:
    log = corpus.data.log
    made = next_item_requests(
        log,
        np.array([target]),
        horizon=1,
        max_history=MAX_REQUEST_HISTORY,
        last_of_fold=fold_ends(log, corpus.split),
        seen=corpus.data.seen,
    )
    return next(made, None)


def _ndcg(path: RankingPath, requests: Sequence[LabelledRequest | None]) -> npt.NDArray[np.float64]:
    """Return ndcg@10 of the full system, NaN where a request has nothing relevant left."""

    def measure(labelled: LabelledRequest | None) -> float:
        if labelled is None:
            return float("nan")
        ranking = path.rank(labelled.request, exclude=labelled.exclude)
        relevant = np.isin(ranking.item_idx, labelled.relevant_idx)
        ranks = pessimistic_ranks(ranking.score, relevant)
        return ranking_metrics(ranks, len(labelled.relevant_idx), (10,))["ndcg@10"]

    blocks = in_blocks(requests, lambda _, block: [measure(labelled) for labelled in block])
    return np.array([value for block in blocks for value in block])


def _compare(
    by_seed: Mapping[str, Sequence[npt.NDArray[np.float64]]],
    users: npt.NDArray[np.int32],
    counts: dict[str, int],
    rng: np.random.Generator,
) -> dict[str, Any]:
    means = {name: np.mean(values, axis=0) for name, values in by_seed.items()}  # NaN if one of the seeds has none
    both = np.isfinite(means["signals"]) & np.isfinite(means["off"])
    systems = {
        name: _bounds(bootstrap_mean(values[both], clusters=users[both], n_bootstrap=_N_BOOTSTRAP, rng=rng))
        for name, values in means.items()
    }
    difference = paired_difference(
        means["signals"][both], means["off"][both], clusters=users[both], n_bootstrap=_N_BOOTSTRAP, rng=rng
    )
    of_seeds = [
        float((signals[both] - off[both]).mean())
        for signals, off in zip(by_seed["signals"], by_seed["off"], strict=True)
    ]
    return {
        "metric": "ndcg@10",
        "n_requests": int(both.sum()),
        "interactions_learned_from_and_tested_on": counts,
        "systems": systems,
        "signals_minus_off": _bounds(difference) | {"excludes_zero": difference.excludes_zero},
        "signals_minus_off_by_seed": of_seeds,
    }


def _bounds(interval: Interval) -> dict[str, Any]:
    return {"mean": interval.mean, "lo": interval.lo, "hi": interval.hi}


def run(data_folder: Path, seed: int, work: Path) -> dict[str, Any]:
    """Return the whole report."""
    started = time.perf_counter()
    config = benchmark_config(seed, "auto")
    with StageClock() as clock:
        desk = Desk(WorkFolder(work), Reporter(), clock)
        dataset = desk.run("data", lambda _: load_dataset(data_folder / FOLDER, "auto", config.data))
        data = encode_dataset(dataset, config.data)
        split = make_split(data.log, data.impressions, config.split)
        key = dataset.fingerprint()
        text = run_text_stage(data, split, config, desk, key)
        head = measure_head(dataset, config, desk, text, key)
        lists = measure_lists(dataset, seed, text, desk, key)
    return {
        "suite": "sentiment",
        "data": FOLDER,
        "split": "five folds of users for the head; every user's last event for the lists, unless it is a complaint",
        "seed": seed,
        "encoder": text.report["base"],
        "sentiment": head,
        "lists": lists,
        "seconds": round(time.perf_counter() - started, 1),
        "peak_rss_mb": round(clock.root.peak_rss_mb, 1),
    }


def lines(report: Mapping[str, Any]) -> list[str]:
    """Return the report as a table for people."""
    head, tfidf = report["sentiment"]["head"], report["sentiment"]["tfidf"]
    told = [
        f"{head['n_reviews']} reviews, {head['n_complaints']} complaints by {head['n_users_complaining']} users",
        "| held-out users | head | TF-IDF | base rate |",
        "|---|---|---|---|",
        f"| AUC | {_shown(head['auc'])} | {_shown(tfidf['auc'])} | 0.500 |",
    ]
    for metric in ("log_loss", "brier"):
        base = _shown(head[f"{metric}_base_rate"])
        told.append(f"| {metric} | {_shown(head[metric])} | {_shown(tfidf[metric])} | {base} |")
    lists = report["lists"]
    reasons = ", ".join(f"{reason}: {count}" for reason, count in lists["users_left_out"].items())
    told.append(f"lists, ndcg@10 over {lists['n_requests']} requests; users left out: {reasons}")
    told += [f"  {name}: {_shown(value)}" for name, value in lists["systems"].items()]
    seeds = ", ".join(f"{value:+.4f}" for value in lists["signals_minus_off_by_seed"])
    told.append(f"  signals minus off: {_shown(lists['signals_minus_off'])}; by seed {seeds}")
    return told


def _shown(interval: Mapping[str, float]) -> str:
    return f"{interval['mean']:.4f} [{interval['lo']:.4f}, {interval['hi']:.4f}]"


def as_json(report: Mapping[str, Any]) -> str:
    """Return the report as JSON, with null for figures that do not exist, of which Python makes no valid JSON."""
    finite = json.loads(json.dumps(report), parse_constant=lambda _: None)
    return json.dumps(finite, indent=1, allow_nan=False) + "\n"


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="JSON report")
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("RECSYS_DATA", ROOT.parent / "shared" / "data"))
    )
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--work", type=Path, help="folder that keeps finished stages between runs; default: a new one")
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            report = run(arguments.data, arguments.seed, arguments.work or Path(scratch))
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(as_json(report), encoding="utf-8")
    print("\n".join(lines(report)))
    print(f"{report['seconds']:.0f} s; written to {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Metrics against scikit-learn: worked out now, and as written down in metrics_sklearn.json.

The file holds fixed inputs, requests of different lengths, with scikit-learn's answers. To write it again:
`python tests/golden/test_metrics_golden.py`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import sklearn
from sklearn.metrics import (
    average_precision_score,
    coverage_error,
    label_ranking_average_precision_score,
    ndcg_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from recsys.evaluation.metrics import list_metrics, pessimistic_ranks, ranking_metrics

GOLDEN = Path(__file__).with_name("metrics_sklearn.json")
KS = (3, 5, 10)
Scores = npt.NDArray[np.float64]
Relevant = npt.NDArray[np.bool_]


def random_request(rng: np.random.Generator, n_items: int, *, distinct: bool) -> tuple[Scores, Relevant]:
    """Return scores, all distinct or with many ties, and some relevant items; distinct ones score a bit higher."""
    relevant = np.zeros(n_items, dtype=bool)
    relevant[rng.choice(n_items, size=int(rng.integers(1, max(2, n_items // 2))), replace=False)] = True
    scores = rng.permutation(n_items) / 8 if distinct else rng.integers(0, 5, size=n_items).astype(float)
    return scores + 0.5 * relevant * rng.random() if distinct else scores, relevant


def untied(scores: Scores, relevant: Relevant) -> Scores:
    """Return the scores with each tie broken against the system, for functions that have no such rule."""
    order = np.lexsort((relevant, -scores))
    result = np.empty(len(scores))
    result[order] = np.arange(len(scores), 0, -1)
    return result


def sklearn_values(scores: Scores, relevant: Relevant) -> dict[str, float]:
    """Return scikit-learn's answers under the names that this project has for the metrics."""
    strict = untied(scores, relevant)
    values = {
        "auc against": roc_auc_score(relevant, strict),
        "auc half": roc_auc_score(relevant, scores),
        "map@all": average_precision_score(relevant, strict),
        "last rank": coverage_error([relevant], [scores]),  # counts items with at least the lowest relevant score
    }
    for k in KS:
        top = strict > len(strict) - k
        reachable = min(k, int(relevant.sum()))
        values[f"ndcg@{k}"] = ndcg_score([relevant], [strict], k=k, ignore_ties=True)
        values[f"hits@{k}"] = recall_score(relevant, top) * relevant.sum()
        values[f"recall@{k}"] = values[f"hits@{k}"] / reachable
        if len(strict) >= k:  # scikit-learn divides by the number of items, we by k
            values[f"precision@{k}"] = precision_score(relevant, top)
    return {name: float(value) for name, value in values.items()}


def own_values(scores: Scores, relevant: Relevant) -> dict[str, float]:
    n_relevant, n_items = int(relevant.sum()), len(scores)
    ranks = pessimistic_ranks(scores, relevant)
    metrics = ranking_metrics(ranks, n_relevant, (*KS, n_items))
    shown = list_metrics(scores, relevant)
    values = {
        "auc against": shown["auc"],
        "auc half": list_metrics(scores, relevant, ties="half")["auc"],
        "map@all": metrics[f"map@{n_items}"],
        "last rank": float(ranks[-1]),
    }
    for k in KS:
        values[f"ndcg@{k}"] = metrics[f"ndcg@{k}"]
        values[f"hits@{k}"] = metrics[f"precision@{k}"] * k
        values[f"recall@{k}"] = metrics[f"recall@{k}"]
        if n_items >= k:
            values[f"precision@{k}"] = metrics[f"precision@{k}"]
    assert shown["ndcg@5"] == pytest.approx(values["ndcg@5"])
    assert shown["ndcg@10"] == pytest.approx(values["ndcg@10"])
    return values


@pytest.mark.parametrize("distinct", [True, False], ids=["distinct scores", "many ties"])
@pytest.mark.parametrize("seed", range(8))
def test_metrics_equal_scikit_learn_now(seed: int, distinct: bool) -> None:
    rng = np.random.default_rng([seed, distinct])
    scores, relevant = random_request(rng, int(rng.integers(4, 40)), distinct=distinct)

    assert own_values(scores, relevant) == pytest.approx(sklearn_values(scores, relevant))


@pytest.mark.parametrize("seed", range(5))
def test_reciprocal_rank_of_a_single_answer_equals_label_ranking_average_precision(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, size=30).astype(float)  # scikit-learn also ranks the answer behind what it ties with
    relevant = np.arange(30) == rng.integers(30)

    expected = label_ranking_average_precision_score([relevant], [scores])

    assert ranking_metrics(pessimistic_ranks(scores, relevant), 1, [10])["mrr"] == pytest.approx(expected)
    assert list_metrics(scores, relevant)["mrr"] == pytest.approx(expected)


def golden_cases() -> list[dict[str, Any]]:
    return json.loads(GOLDEN.read_text(encoding="utf-8"))["requests"]


@pytest.mark.parametrize("case", golden_cases(), ids=lambda case: case["name"])
def test_metrics_equal_the_values_written_down(case: dict[str, Any]) -> None:
    scores, relevant = np.array(case["scores"], np.float64), np.array(case["relevant"], dtype=bool)

    assert own_values(scores, relevant) == pytest.approx(case["values"])


def test_the_golden_file_has_ties_and_lists_shorter_than_the_cut_offs() -> None:
    cases = golden_cases()

    assert any(len(set(case["scores"])) < len(case["scores"]) for case in cases)
    assert min(len(case["scores"]) for case in cases) < max(KS) < max(len(case["scores"]) for case in cases)
    assert len({round(case["values"]["ndcg@10"], 6) for case in cases}) > len(cases) // 2


def write_golden() -> None:
    """Write the golden file again from its seed."""
    rng = np.random.default_rng(20191113)
    requests = []
    for i, n_items in enumerate((4, 7, 9, 12, 12, 15, 17, 17, 21, 23, 23, 23)):
        distinct = i % 3 > 0
        scores, relevant = random_request(rng, n_items, distinct=distinct)
        scores = scores.round(3)
        requests.append(
            {
                "name": f"{n_items} items, {'distinct' if distinct else 'ties'}, case {i}",
                "scores": scores.tolist(),
                "relevant": relevant.astype(int).tolist(),
                "values": sklearn_values(scores, relevant),
            }
        )
    lines = ",\n".join(json.dumps(request) for request in requests)
    GOLDEN.write_text(f'{{"scikit_learn": "{sklearn.__version__}", "requests": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    write_golden()

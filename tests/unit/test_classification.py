import math

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from recsys.evaluation.classification import auc, auc_interval, brier_scores, log_losses
from recsys.evaluation.metrics import EvaluationError


def test_auc_counts_ties_half():
    # Pairs (positive, negative): .9>.5, .9>.2, .5=.5, .5>.2 -> (1 + 1 + 0.5 + 1) / 4
    assert auc(np.array([True, False, True, False]), np.array([0.9, 0.5, 0.5, 0.2])) == pytest.approx(3.5 / 4)


def test_auc_of_one_class_is_undefined():
    assert math.isnan(auc(np.array([True, True]), np.array([0.1, 0.2])))


def test_metrics_agree_with_scikit_learn():
    rng = np.random.default_rng(3)
    outcome = rng.random(200) < 0.9
    probability = np.round(np.clip(0.6 * outcome + 0.4 * rng.random(200), 0.01, 0.99), 2)
    assert auc(outcome, probability) == pytest.approx(roc_auc_score(outcome, probability))
    assert log_losses(outcome, probability).mean() == pytest.approx(log_loss(outcome, probability))
    assert brier_scores(outcome, probability).mean() == pytest.approx(brier_score_loss(outcome, probability))


def test_interval_resamples_whole_users():
    rng = np.random.default_rng(5)
    # Every user says the same thing twenty times: rows are plenty, users are few.
    outcome = np.repeat(rng.random(30) < 0.5, 20)
    score = outcome + np.repeat(rng.normal(size=30), 20)
    users = np.repeat(np.arange(30), 20)
    by_user = auc_interval(outcome, score, clusters=users, n_bootstrap=200, rng=np.random.default_rng(1))
    by_row = auc_interval(outcome, score, clusters=np.arange(600), n_bootstrap=200, rng=np.random.default_rng(1))
    assert by_user.mean == by_row.mean == pytest.approx(roc_auc_score(outcome, score))
    assert by_user.hi - by_user.lo > 2 * (by_row.hi - by_row.lo)


def test_difference_to_a_baseline_is_paired():
    rng = np.random.default_rng(6)
    outcome = rng.random(300) < 0.8
    score = outcome + rng.normal(size=300)
    same = auc_interval(
        outcome, score, baseline=2 * score + 1, clusters=np.arange(300), n_bootstrap=50, rng=np.random.default_rng(1)
    )
    assert (same.mean, same.lo, same.hi) == (0.0, 0.0, 0.0)


def test_an_auc_of_one_class_is_refused():
    with pytest.raises(EvaluationError, match="3 of 3 outcomes are positive"):
        auc_interval(np.ones(3, np.bool_), np.arange(3.0), clusters=np.arange(3), rng=np.random.default_rng(0))


def test_arrays_of_different_lengths_are_refused():
    with pytest.raises(EvaluationError, match=r"lengths \[2, 3\]"):
        auc_interval(np.ones(3, np.bool_), np.arange(3.0), clusters=np.arange(2), rng=np.random.default_rng(0))

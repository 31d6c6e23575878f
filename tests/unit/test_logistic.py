import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from training.logistic import fit_choice, fit_logistic


def drawn(n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(n, 3))
    return x, rng.random(n) < expit(x @ [1.5, -1.0, 0.0] + 2.0)


def test_coefficients_are_those_of_scikit_learn():
    x, y = drawn()
    found = fit_logistic(x, y, 2.0)
    reference = LogisticRegression(C=0.5, tol=1e-8).fit(x, y)
    np.testing.assert_allclose(found[:-1], reference.coef_[0], atol=2e-3)
    assert found[-1] == pytest.approx(reference.intercept_[0], abs=2e-3)


def test_the_mean_probability_is_the_base_rate_however_strong_the_penalty():
    x, y = drawn()
    found = fit_logistic(x.astype(np.float32), y, 1e6)
    np.testing.assert_allclose(found[:-1], 0.0, atol=1e-3)
    assert expit(x @ found[:-1] + found[-1]).mean() == pytest.approx(y.mean(), abs=1e-3)


def test_choice_weights_are_recovered_and_never_negative():
    rng = np.random.default_rng(8)
    x = rng.normal(size=(4_000, 6, 3))
    utility = x @ np.array([1.0, 0.5, -0.8]) + rng.gumbel(size=(4_000, 6))
    best = utility.argmax(axis=1)
    order = np.argsort(np.arange(6)[None, :] != best[:, None], axis=1, kind="stable")
    chosen_first = np.take_along_axis(x, order[:, :, None], axis=1)
    kept = fit_choice(chosen_first[:, :, :2], 0.0)
    np.testing.assert_allclose(kept / kept[0], [1.0, 0.5], atol=0.07)
    assert fit_choice(chosen_first, 0.0)[2] == 0.0

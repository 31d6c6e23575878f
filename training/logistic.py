"""Two small convex models, fitted with SciPy: logistic regression, and choice among candidates with weights >= 0."""

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logit
from threadpoolctl import threadpool_limits

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_MAX_ITERATIONS: Final = 300


def fit_logistic(
    x: Float32 | Float64, is_positive: Bool, regularization: float, start: Float64 | None = None
) -> Float64:
    """Return coefficients and, last, the intercept, float64 `(d + 1,)`.

    Minimises the sum of log losses plus `regularization / 2` times the squared coefficients; the intercept is free, so
    that the mean probability is the base rate however rare one class is. x: `(n, d)`; is_positive: bool `(n,)` with
    both classes. start: where to begin, a neighbouring solution say.
    """
    y = is_positive.astype(np.float64)
    if start is None:
        start = np.zeros(x.shape[1] + 1)
        start[-1] = logit(y.mean())

    def loss(parameters: Float64) -> tuple[float, Float64]:
        logits = x @ parameters[:-1].astype(x.dtype) + parameters[-1]
        logits = logits.astype(np.float64)
        residual = expit(logits) - y
        value = np.logaddexp(0.0, logits).sum() - y @ logits
        value += 0.5 * regularization * float(parameters[:-1] @ parameters[:-1])
        gradient = np.append(residual.astype(x.dtype) @ x + regularization * parameters[:-1], residual.sum())
        return float(value), gradient.astype(np.float64)

    # Steps are many and small: threads for their linear algebra cost more than they bring.
    with threadpool_limits(limits=1):
        return minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _MAX_ITERATIONS}).x


def fit_choice(x: Float64, regularization: float) -> Float64:
    """Return the weights, at least 0, float64 `(d,)`, under which the first of each row's candidates is chosen.

    x: float64 `(n, n_candidates, d)`, features of the candidates, the chosen one first. Minimises the mean negative
    log of the chosen one's softmax share (the conditional logit of McFadden, 1974) plus `regularization / 2` times the
    squared weights.
    """
    n = len(x)

    def loss(weights: Float64) -> tuple[float, Float64]:
        shares = log_softmax(x @ weights, axis=1)  # (n, c)
        expected = np.einsum("nc,ncd->d", np.exp(shares), x)
        value = -shares[:, 0].sum() / n + 0.5 * regularization * float(weights @ weights)
        return float(value), (expected - x[:, 0].sum(axis=0)) / n + regularization * weights

    bounds = [(0.0, None)] * x.shape[2]
    with threadpool_limits(limits=1):
        return minimize(loss, np.ones(x.shape[2]), jac=True, method="L-BFGS-B", bounds=bounds).x

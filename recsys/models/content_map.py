"""From what an item is (text embedding, attributes) to where it belongs among the collaborative factors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from recsys.catalogue import Catalogue
from recsys.config import ColdConfig
from recsys.schema import Col

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_N_BINS: Final = 10
_MAX_CROSSED_CATEGORIES: Final = 40
_MIN_NORM: Final = 1e-9
_CHUNK_ROWS: Final = 32_768


@dataclass(frozen=True)
class ContentEncoding:
    """How items become rows of content features: chosen on the items that the map is fitted on.

    columns: int64 `(n_columns,)`, attribute values in use. bin_edges: float32 `(n_numeric, n_bins - 1)`, quantiles of
    each numeric attribute. crossed: int64, category values that are crossed with the numeric bins.
    """

    columns: npt.NDArray[np.int64]
    bin_edges: Float32
    crossed: npt.NDArray[np.int64]

    @staticmethod
    def fit(catalogue: Catalogue, rows: npt.NDArray[np.int64], config: ColdConfig) -> "ContentEncoding":
        """Choose the values that at least two of the given items share, and the quantiles of their numbers."""
        counts = np.asarray(catalogue.values[rows].sum(axis=0)).ravel()
        columns = np.flatnonzero(counts >= 2)
        columns = np.sort(columns[np.argsort(-counts[columns], kind="stable")][: config.max_attribute_values])
        numeric = catalogue.numeric[rows]
        edges = np.empty((numeric.shape[1], _N_BINS - 1), np.float32)
        for field in range(numeric.shape[1]):
            present = numeric[np.isfinite(numeric[:, field]), field]
            quantiles = np.linspace(0, 1, _N_BINS + 1)[1:-1]
            edges[field] = np.quantile(present, quantiles) if len(present) else 0.0
        is_category = np.isin(
            catalogue.value_field[columns],
            [i for i, name in enumerate(catalogue.value_fields) if name == Col.CATEGORIES],
        )
        crossed = columns[is_category]
        crossed = crossed[np.argsort(-counts[crossed], kind="stable")][:_MAX_CROSSED_CATEGORIES]
        return ContentEncoding(columns, edges, np.sort(crossed))

    def rows_of(self, catalogue: Catalogue) -> sp.csr_matrix:
        """Return the attribute part of the content features, float32 CSR `(n_items, n_features)`.

        Attribute values, then one column per numeric bin, then category × bin; each block's rows have length 1, so that
        an item with many actors does not outweigh one with few.
        """
        values = catalogue.values[:, self.columns]
        bins = [self._bin_indicators(catalogue.numeric[:, f], self.bin_edges[f]) for f in range(len(self.bin_edges))]
        categories = catalogue.values[:, self.crossed]
        fields = catalogue.value_field[self.columns]
        blocks = [_unit_rows(values[:, np.flatnonzero(fields == field)]) for field in np.unique(fields)]
        blocks.extend(bins)
        for indicator in bins:
            crossed = [categories.multiply(indicator[:, [b]]) for b in range(indicator.shape[1])]
            blocks.append(_unit_rows(sp.hstack(crossed, format="csr")))
        if not blocks:
            return sp.csr_matrix((len(catalogue), 0), dtype=np.float32)
        return sp.hstack(blocks, format="csr", dtype=np.float32)

    @staticmethod
    def _bin_indicators(numbers: Float32, edges: Float32) -> sp.csr_matrix:
        present = np.flatnonzero(np.isfinite(numbers))
        bins = np.searchsorted(edges, numbers[present], side="right")
        return sp.csr_matrix(
            (np.ones(len(present), np.float32), (present, bins)), shape=(len(numbers), _N_BINS), dtype=np.float32
        )


@dataclass(frozen=True)
class ContentMap:
    """A ridge regression from content onto item factors.

    text_weights: float32 `(embedding_size, d)`. attribute_weights: float32 `(n_features, d)`. intercept: float32
    `(d,)`.
    """

    encoding: ContentEncoding
    text_weights: Float32
    attribute_weights: Float32
    intercept: Float32

    @staticmethod
    def fit(
        catalogue: Catalogue,
        embeddings: Float32,
        item_factors: Float32,
        counts: npt.NDArray[np.int64],
        config: ColdConfig,
    ) -> "ContentMap":
        """Fit on the items with at least `min_interactions` interactions.

        Args:
            embeddings: float32 `(n_items, embedding_size)`, unit rows; an item without text has a zero row.
            item_factors: float32 `(n_items, d)`, the targets.
            counts: int64 `(n_items,)`, interactions behind each target; an item weighs by their logarithm, since
                factors that rest on few interactions are mostly noise.
        """
        rows = np.flatnonzero(counts >= config.min_interactions)
        encoding = ContentEncoding.fit(catalogue, rows, config)
        d = item_factors.shape[1]
        if not len(rows):
            width = encoding.rows_of(catalogue).shape[1]
            zeros = np.zeros((embeddings.shape[1] + width, d), np.float32)
            return ContentMap(
                encoding, zeros[: embeddings.shape[1]], zeros[embeddings.shape[1] :], np.zeros(d, np.float32)
            )
        attributes = encoding.rows_of(catalogue)[rows].astype(np.float64)
        text = embeddings[rows]
        scale = np.sqrt(embeddings.shape[1])
        if attributes.shape[1]:
            # One unit of penalty should mean the same for both blocks: scale text to the attributes' mean row norm.
            text_norm = scale * np.sqrt(np.einsum("ij,ij->", text, text, dtype=np.float64) / len(rows))
            scale *= np.sqrt((attributes.data**2).sum() / len(rows) + _MIN_NORM) / max(text_norm, _MIN_NORM)
            # An embedding that was tuned on these very items says more of them than it will of others.
            scale *= config.text_scale
        weight = np.log1p(counts[rows])
        weight = weight / weight.mean()
        targets = item_factors[rows].astype(np.float64)
        weights, intercept = _ridge(text, scale, attributes, targets, weight, config.regularization)
        weights[: embeddings.shape[1]] *= scale
        return ContentMap(
            encoding,
            weights[: embeddings.shape[1]].astype(np.float32),
            weights[embeddings.shape[1] :].astype(np.float32),
            intercept.astype(np.float32),
        )

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return everything that the map consists of, by name; `of_arrays` makes a map of it."""
        encoding = {name: getattr(self.encoding, name) for name in ("columns", "bin_edges", "crossed")}
        return encoding | {name: getattr(self, name) for name in ("text_weights", "attribute_weights", "intercept")}

    @staticmethod
    def of_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> "ContentMap":
        """Return the map that `arrays` took apart. Raises KeyError where one is missing."""
        encoding = ContentEncoding(arrays["columns"], arrays["bin_edges"], arrays["crossed"])
        return ContentMap(encoding, arrays["text_weights"], arrays["attribute_weights"], arrays["intercept"])

    def predict(self, catalogue: Catalogue, embeddings: Float32) -> Float32:
        """Return the factors that content predicts for every item of a catalogue, float32 `(n_items, d)`."""
        attributes = self.encoding.rows_of(catalogue)
        return (embeddings @ self.text_weights + attributes @ self.attribute_weights + self.intercept).astype(
            np.float32
        )


def _unit_rows(matrix: sp.csr_matrix) -> sp.csr_matrix:
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    return (sp.diags_array(1.0 / np.maximum(norms, _MIN_NORM)) @ matrix).tocsr()


def _ridge(
    text: Float32, scale: float, attributes: sp.csr_matrix, targets: Float64, weight: Float64, penalty: float
) -> tuple[Float64, Float64]:
    """Return weights `(n_features, d)` and intercept `(d,)` of a weighted ridge regression.

    The features are text `(n, embedding_size)` times its scale, then attributes. Solved in the dual when there are no
    more rows than features; both give the same weights. Only there are the attributes made dense, and so they never
    take more room than the `(n_features, n_features)` of the other case.
    """
    total = weight.sum()
    target_mean = weight @ targets / total
    n, p = len(text), text.shape[1] + attributes.shape[1]
    if n <= p:
        features = np.hstack([text.astype(np.float64) * scale, attributes.toarray()])
        feature_mean = weight @ features / total
        root = np.sqrt(weight)[:, None]
        x = (features - feature_mean) * root  # (n, p)
        y = (targets - target_mean) * root  # (n, d)
        solution = x.T @ np.linalg.solve(x @ x.T + penalty * np.eye(n), y)
    else:
        gram, products, feature_mean = _moments(text, scale, attributes, targets - target_mean, weight)
        gram[np.diag_indices(p)] += penalty
        solution = np.linalg.solve(gram, products)
    return solution, target_mean - feature_mean @ solution


def _moments(
    text: Float32, scale: float, attributes: sp.csr_matrix, targets: Float64, weight: Float64
) -> tuple[Float64, Float64, Float64]:
    """Return X'WX `(p, p)` and X'WY `(p, d)` of the features less their weighted mean, and that mean `(p,)`.

    The attributes stay sparse and are centred afterwards, by X'WX - total mean mean'; centred rows would be dense.
    targets: float64 `(n, d)`, of weighted mean 0.
    """
    n_text, p = text.shape[1], text.shape[1] + attributes.shape[1]
    gram, products, sums = np.zeros((p, p)), np.zeros((p, targets.shape[1])), np.zeros(p)
    for start in range(0, len(text), _CHUNK_ROWS):
        rows = slice(start, start + _CHUNK_ROWS)
        dense, sparse, w = text[rows].astype(np.float64) * scale, attributes[rows], weight[rows]
        weighted = (sp.diags_array(w) @ sparse).T.tocsr()  # (n_attributes, rows)
        gram[:n_text, :n_text] += dense.T @ (dense * w[:, None])
        gram[n_text:, :n_text] += weighted @ dense
        gram[n_text:, n_text:] += (weighted @ sparse).toarray()
        products[:n_text] += dense.T @ (targets[rows] * w[:, None])
        products[n_text:] += weighted @ targets[rows]
        sums[:n_text] += w @ dense
        sums[n_text:] += np.asarray(weighted.sum(axis=1)).ravel()
    gram[:n_text, n_text:] = gram[n_text:, :n_text].T
    mean = sums / weight.sum()
    gram -= np.outer(sums, mean)
    return gram, products, mean

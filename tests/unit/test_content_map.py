import tracemalloc

import numpy as np
import polars as pl
import pytest

from recsys.catalogue import Catalogue
from recsys.config import ColdConfig
from recsys.models.content_map import ContentEncoding, ContentMap

FIELDS = ("title",)
N_BINS = 10


def _catalogue(**columns: object) -> Catalogue:
    n = len(next(iter(columns.values())))  # type: ignore[arg-type]
    return Catalogue.from_items(pl.DataFrame({"item_id": [f"i{i}" for i in range(n)]} | columns), FIELDS)


def _config(**changes: object) -> ColdConfig:
    return ColdConfig.model_validate({"regularization": 1e-6, "min_interactions": 1} | changes)


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_values_that_the_fitted_items_do_not_share_are_left_out() -> None:
    catalogue = _catalogue(categories=[["a", "b"], ["a"], ["b"], ["b", "c"], ["c"]])
    encoding = ContentEncoding.fit(catalogue, np.array([0, 1, 2]), _config())

    assert [catalogue.value_names[c] for c in encoding.columns] == ["b", "a"]  # c is shared, but not in these rows


def test_the_most_frequent_values_are_kept_up_to_the_limit() -> None:
    catalogue = _catalogue(categories=[["a", "b", "c"], ["a", "b", "c"], ["a", "b"], ["a"]])
    encoding = ContentEncoding.fit(catalogue, np.arange(4), _config(max_attribute_values=2))

    assert {catalogue.value_names[c] for c in encoding.columns} == {"a", "b"}


def test_rows_of_a_field_have_length_one_however_many_values_an_item_has() -> None:
    catalogue = _catalogue(
        categories=[["a", "b"], ["a", "b"], ["a"], []], actors=[["p"], ["p", "q", "r"], ["p", "q", "r"], ["r"]]
    )
    rows = ContentEncoding.fit(catalogue, np.arange(4), _config()).rows_of(catalogue).toarray()

    assert rows.shape == (4, 2 + 3)
    np.testing.assert_allclose(np.linalg.norm(rows[:, :2], axis=1), [1, 1, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(rows[:, 2:], axis=1), [1, 1, 1, 1], rtol=1e-6)


def test_numbers_fall_into_bins_of_the_fitted_items_and_missing_ones_into_none() -> None:
    catalogue = _catalogue(year=[*map(float, range(100)), None, -1000.0, 1000.0])
    encoding = ContentEncoding.fit(catalogue, np.arange(100), _config())
    rows = encoding.rows_of(catalogue).toarray()[:, :N_BINS]

    assert encoding.bin_edges.shape == (1, N_BINS - 1)
    assert rows[:100].argmax(axis=1).tolist() == [i // 10 for i in range(100)]
    assert rows.sum(axis=1).tolist() == [1.0] * 100 + [0.0, 1.0, 1.0]
    assert rows[101].argmax() == 0
    assert rows[102].argmax() == N_BINS - 1


def test_categories_are_crossed_with_bins_and_other_fields_are_not() -> None:
    catalogue = _catalogue(
        categories=[["a"], ["b"], ["a", "b"], ["a"]], brand=["p", "p", "q", "q"], year=[1.0, 2.0, 3.0, None]
    )
    encoding = ContentEncoding.fit(catalogue, np.arange(4), _config())
    rows = encoding.rows_of(catalogue).toarray()

    assert rows.shape == (4, 2 + 2 + N_BINS + 2 * N_BINS)
    crossed = rows[:, 4 + N_BINS :]
    np.testing.assert_allclose(np.linalg.norm(crossed, axis=1), [1, 1, 1, 0], rtol=1e-6)
    assert [np.count_nonzero(row) for row in crossed] == [1, 1, 2, 0]


@pytest.mark.parametrize("weight_of_second", [1, 50])
def test_text_alone_recovers_a_linear_map(weight_of_second: int) -> None:
    rng = np.random.default_rng(1)
    embeddings = _unit(rng.normal(size=(60, 7)))
    truth, shift = rng.normal(size=(7, 3)), np.array([1.0, -2.0, 0.5])
    factors = (embeddings @ truth + shift).astype(np.float32)
    catalogue = _catalogue(title=["t"] * 60)
    counts = np.where(np.arange(60) == 1, weight_of_second, 1)
    content = ContentMap.fit(catalogue, embeddings, factors, counts, _config())

    np.testing.assert_allclose(content.predict(catalogue, embeddings), factors, atol=1e-3)
    np.testing.assert_allclose(content.text_weights, truth, atol=1e-2)
    np.testing.assert_allclose(content.intercept, shift, atol=1e-2)


def test_items_with_too_few_interactions_teach_nothing_but_are_placed() -> None:
    rng = np.random.default_rng(2)
    embeddings = _unit(rng.normal(size=(40, 4)))
    truth = rng.normal(size=(4, 2))
    factors = (embeddings @ truth).astype(np.float32)
    factors[30:] = 1e6  # not to be believed
    counts = np.where(np.arange(40) < 30, 5, 4)
    catalogue = _catalogue(title=["t"] * 40)
    content = ContentMap.fit(catalogue, embeddings, factors, counts, _config(min_interactions=5))

    np.testing.assert_allclose(content.predict(catalogue, embeddings), embeddings @ truth, atol=1e-3)


def test_items_with_many_interactions_weigh_more() -> None:
    embeddings = np.ones((3, 1), np.float32)
    factors = np.array([[0.0], [0.0], [3.0]], np.float32)
    catalogue = _catalogue(title=["t"] * 3)

    def placed(counts: list[int]) -> float:
        content = ContentMap.fit(catalogue, embeddings, factors, np.array(counts), _config())
        return float(content.predict(catalogue, embeddings)[0, 0])

    assert placed([4, 4, 4]) == pytest.approx(1.0)
    # weights are logarithms: log 2, log 2, log 16 are 1 : 1 : 4
    assert placed([1, 1, 15]) == pytest.approx(2.0)


def test_attributes_and_text_share_the_explanation() -> None:
    rng = np.random.default_rng(3)
    n = 80
    embeddings = _unit(rng.normal(size=(n, 5)))
    is_a = rng.random(n) < 0.5
    catalogue = _catalogue(categories=[["a"] if a else ["b"] for a in is_a])
    factors = (embeddings @ rng.normal(size=(5, 2)) + np.where(is_a, 4.0, -4.0)[:, None]).astype(np.float32)
    content = ContentMap.fit(catalogue, embeddings, factors, np.full(n, 3), _config())

    np.testing.assert_allclose(content.predict(catalogue, embeddings), factors, atol=1e-2)
    a, b = (list(catalogue.value_names).index(name) for name in "ab")
    difference = content.attribute_weights[a] - content.attribute_weights[b]
    np.testing.assert_allclose(difference, [8.0, 8.0], rtol=1e-2)


def test_fewer_rows_than_features_give_the_same_map_as_the_primal_solution() -> None:
    rng = np.random.default_rng(4)
    embeddings = _unit(rng.normal(size=(6, 9)))  # 6 rows, 9 features: solved in the dual
    factors = rng.normal(size=(6, 2)).astype(np.float32)
    catalogue = _catalogue(title=["t"] * 6)
    counts = np.array([1, 2, 3, 4, 5, 6])
    penalty = 2.0
    content = ContentMap.fit(catalogue, embeddings, factors, counts, _config(regularization=penalty))

    weight = np.log1p(counts)
    weight = weight / weight.mean()
    x = embeddings.astype(np.float64) * 3.0  # text is scaled by the root of its width
    mean_x, mean_y = (weight @ x) / weight.sum(), (weight @ factors) / weight.sum()
    left = (x - mean_x).T @ (weight[:, None] * (x - mean_x)) + penalty * np.eye(9)
    right = (x - mean_x).T @ (weight[:, None] * (factors - mean_y))
    solution = np.linalg.solve(left, right)
    expected = (x - mean_x) @ solution + mean_y
    np.testing.assert_allclose(content.predict(catalogue, embeddings), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("chunk_rows", "text_scale"), [(7, 1.0), (1000, 1.0), (1000, 0.5)])
def test_rows_taken_in_chunks_give_the_plain_weighted_ridge_regression(
    chunk_rows: int, text_scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.models.content_map._CHUNK_ROWS", chunk_rows)
    rng = np.random.default_rng(9)
    n, width, penalty = 200, 5, 0.3
    embeddings = _unit(rng.normal(loc=0.5, size=(n, width)))
    catalogue = _catalogue(
        categories=[list(rng.choice(list("abcdef"), rng.integers(0, 4), replace=False)) for _ in range(n)],
        year=rng.integers(1950, 2020, n).astype(float),
    )
    factors = rng.normal(size=(n, 3)).astype(np.float32)
    counts = rng.integers(0, 50, n)
    content = ContentMap.fit(
        catalogue,
        embeddings,
        factors,
        counts,
        _config(regularization=penalty, text_scale=text_scale, min_interactions=2),
    )

    rows = np.flatnonzero(counts >= 2)
    attributes = content.encoding.rows_of(catalogue).toarray().astype(np.float64)
    text = embeddings.astype(np.float64)
    # Text at unit norm is brought to the attributes' norm, times the scale.
    scale = text_scale * np.sqrt((attributes[rows] ** 2).sum(1).mean())
    features = np.hstack([text * scale, attributes])
    assert len(rows) > features.shape[1]
    weight = np.log1p(counts[rows]) / np.log1p(counts[rows]).mean()
    x, y = features[rows], factors[rows].astype(np.float64)
    x_mean, y_mean = weight @ x / weight.sum(), weight @ y / weight.sum()
    left = (x - x_mean).T @ (weight[:, None] * (x - x_mean)) + penalty * np.eye(x.shape[1])
    solution = np.linalg.solve(left, (x - x_mean).T @ (weight[:, None] * (y - y_mean)))
    np.testing.assert_allclose(content.text_weights, solution[:width] * scale, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(content.attribute_weights, solution[width:], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        content.predict(catalogue, embeddings), (features - x_mean) @ solution + y_mean, rtol=1e-4, atol=1e-5
    )


def test_more_rows_than_features_are_never_made_dense_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.models.content_map._CHUNK_ROWS", 1_000)
    rng = np.random.default_rng(10)
    n, n_names = 20_000, 400
    names = [f"n{i}" for i in range(n_names)]
    catalogue = _catalogue(actors=[[names[i % n_names], names[(7 * i + 1) % n_names]] for i in range(n)])
    embeddings, factors = np.zeros((n, 2), np.float32), rng.normal(size=(n, 2)).astype(np.float32)
    tracemalloc.start()
    ContentMap.fit(catalogue, embeddings, factors, np.full(n, 3), _config())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < n * n_names * 8 / 2  # half of one dense copy in float64


def test_a_strong_penalty_leaves_only_the_mean() -> None:
    rng = np.random.default_rng(5)
    embeddings = _unit(rng.normal(size=(20, 3)))
    factors = rng.normal(size=(20, 2)).astype(np.float32)
    catalogue = _catalogue(categories=[["a"], ["b"]] * 10)
    content = ContentMap.fit(catalogue, embeddings, factors, np.full(20, 7), _config(regularization=1e9))

    predicted = content.predict(catalogue, embeddings)
    np.testing.assert_allclose(predicted, np.broadcast_to(factors.mean(axis=0), (20, 2)), atol=1e-4)


@pytest.mark.parametrize(
    "columns", [{"title": ["t"] * 4}, {"categories": [["a"], ["a"], [], []], "year": [1, 2, 3, None]}]
)
def test_without_any_item_to_learn_from_every_item_is_placed_at_zero(columns: dict[str, object]) -> None:
    catalogue = _catalogue(**columns)
    embeddings = _unit(np.random.default_rng(6).normal(size=(4, 3)))
    content = ContentMap.fit(catalogue, embeddings, np.ones((4, 2), np.float32), np.zeros(4, np.int64), _config())

    predicted = content.predict(catalogue, embeddings)
    assert predicted.shape == (4, 2)
    assert not predicted.any()
    assert predicted.dtype == np.float32


def test_items_without_text_are_placed_by_their_attributes() -> None:
    rng = np.random.default_rng(7)
    n = 40
    catalogue = _catalogue(categories=[["a"], ["b"]] * (n // 2))
    factors = np.tile(np.array([[2.0, 0.0], [0.0, -2.0]], np.float32), (n // 2, 1)) + 0.01 * rng.normal(size=(n, 2))
    content = ContentMap.fit(
        catalogue, np.zeros((n, 6), np.float32), factors.astype(np.float32), np.full(n, 3), _config()
    )

    predicted = content.predict(catalogue, np.zeros((n, 6), np.float32))
    assert np.isfinite(predicted).all()
    np.testing.assert_allclose(predicted[:2], [[2.0, 0.0], [0.0, -2.0]], atol=0.05)


def test_what_is_predicted_for_an_item_does_not_depend_on_the_rest_of_the_catalogue() -> None:
    rng = np.random.default_rng(8)
    embeddings = _unit(rng.normal(size=(30, 4)))
    table = pl.DataFrame(
        {
            "item_id": [f"i{i}" for i in range(30)],
            "categories": [["a", "b"], ["b"], ["a"]] * 10,
            "year": rng.integers(1950, 2020, 30).astype(float),
        }
    )
    catalogue = Catalogue.from_items(table, FIELDS)
    factors = rng.normal(size=(30, 3)).astype(np.float32)
    content = ContentMap.fit(catalogue, embeddings, factors, np.full(30, 9), _config(regularization=1.0))

    np.testing.assert_allclose(
        content.predict(catalogue, embeddings)[12:15],
        content.predict(catalogue, embeddings * (np.arange(30) >= 12)[:, None].astype(np.float32))[12:15],
        rtol=1e-5,
    )

import itertools
import math
import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from training.figures import (
    embedding_projection,
    feature_importance,
    learning_curves,
    metric_bars,
    popularity_coverage_curve,
)

HIGHLIGHT = "#c2410c"


def _png_size(figure: Figure) -> tuple[int, int]:
    """Render the figure and return its width and height, from the file's own header."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    assert buffer.getvalue().startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", buffer.getvalue()[16:24])
    return width, height


def _texts(axes: Any) -> list[str]:
    return [text.get_text().strip() for text in axes.texts]


def _legend(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def _line(axes: Any, label: str) -> tuple[list[float], list[float]]:
    (line,) = (line for line in axes.get_lines() if line.get_label() == label)
    return list(line.get_xdata()), list(line.get_ydata())


def test_losses_and_metrics_are_in_panels_of_their_own_with_the_best_marked() -> None:
    encoder: list[dict[str, float | None]] = [
        {"step": 10, "train_loss": 3.0, "valid_loss": 2.5},
        {"step": 30, "train_loss": 2.0, "valid_loss": None},
        {"step": 40, "train_loss": 1.0, "valid_loss": 2.75, "valid_recall@20": 0.125},
    ]
    figure = learning_curves(
        encoder, [{"step": 1, "ndcg@10": 0.1}, {"step": 2, "ndcg@10": 0.3}, {"step": 3, "ndcg@10": 0.2}]
    )
    losses, recall, ranker = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["encoder: loss", "encoder: metric", "ranker: metric"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["step", "step", "trees"]
    assert _line(losses, "train_loss") == ([10, 30, 40], [3, 2, 1])
    assert _line(losses, "valid_loss") == ([10, 40], [2.5, 2.75])
    assert _texts(losses) == ["2.5 at 10"]
    assert _texts(recall) == ["0.125 at 40"]
    assert _texts(ranker) == ["0.3 at 2"]
    assert _png_size(figure)[0] > 1_000


def test_a_curve_that_diverged_is_drawn() -> None:
    figure = learning_curves([{"step": 1, "valid_loss": math.nan}, {"step": 2, "valid_loss": math.nan}], [])
    assert _texts(figure.axes[0]) == []
    _png_size(figure)


def test_without_curves_the_picture_says_so() -> None:
    figure = learning_curves([], [{"step": 1, "ndcg@10": None}])
    assert [text.get_text() for text in figure.texts] == ["no learning curve was recorded"]
    _png_size(figure)


def test_metric_bars_stand_by_the_first_metric_with_the_full_system_highlighted() -> None:
    systems: dict[str, dict[str, dict[str, float | None]]] = {
        "als": {"ndcg@10": {"mean": 0.25, "lo": 0.2, "hi": 0.35}},
        "full": {"ndcg@10": {"mean": 0.5, "lo": 0.4, "hi": 0.6}, "auc": {"mean": 0.75, "lo": None, "hi": None}},
        "random": {"ndcg@10": {"mean": 0.125, "lo": 0.1, "hi": 0.15}, "auc": {"mean": 0.5, "lo": 0.45, "hi": 0.55}},
    }
    figure = metric_bars(systems)
    ndcg, auc = figure.axes
    assert [label.get_text() for label in ndcg.get_yticklabels()] == ["random", "als", "full"]  # from the bottom up
    assert [bar.get_width() for bar in ndcg.patches] == [0.125, 0.25, 0.5]
    assert [to_hex(bar.get_facecolor()) == HIGHLIGHT for bar in ndcg.patches] == [False, False, True]
    arms = [path.vertices[:, 0].tolist() for path in ndcg.collections[0].get_paths()]
    assert arms == [pytest.approx([0.1, 0.15]), pytest.approx([0.2, 0.35]), pytest.approx([0.4, 0.6])]
    assert (ndcg.get_title(), auc.get_title()) == ("ndcg@10", "auc")
    assert _texts(ndcg) == ["0.125", "0.250", "0.500"]
    assert _texts(auc) == ["0.500", "not measured", "0.750"]
    _png_size(figure)


def test_metric_bars_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="none of 1 systems has a metric to draw"):
        metric_bars({"full": {}})


def test_importance_is_shared_out_over_groups_and_features() -> None:
    names = ["als", "cosine", "age", "seen", "other"]
    groups = ["collaborative", "text", "item", "collaborative", "item"]
    figure = feature_importance(names, groups, np.array([30.0, 40.0, 5.0, 25.0, 0.0]))
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["item", "text", "collaborative"]
    assert _texts(left) == ["5.0%", "40.0%", "55.0%"]
    assert [label.get_text() for label in right.get_yticklabels()] == ["other", "age", "seen", "als", "cosine"]
    assert _texts(right) == ["0.0%", "5.0%", "25.0%", "30.0%", "40.0%"]
    by_group = dict(
        zip(["item", "text", "collaborative"], [to_hex(bar.get_facecolor()) for bar in left.patches], strict=True)
    )
    drawn = [to_hex(bar.get_facecolor()) for bar in right.patches]
    assert drawn == [by_group[group] for group in ("item", "item", "collaborative", "collaborative", "text")]
    assert len(set(by_group.values())) == 3
    _png_size(figure)


def test_only_the_strongest_features_are_drawn() -> None:
    gain = np.arange(50.0)
    figure = feature_importance([f"f{i}" for i in range(50)], ["one"] * 50, gain)
    assert figure.axes[1].get_title() == "strongest 20 of 50 features"
    assert [label.get_text() for label in figure.axes[1].get_yticklabels()] == [f"f{i}" for i in range(30, 50)]


def test_a_ranker_that_learned_nothing_has_no_importance() -> None:
    figure = feature_importance(["a", "b"], ["x", "y"], np.zeros(2))
    assert _texts(figure.axes[0]) == ["0.0%", "0.0%"]
    _png_size(figure)


@pytest.mark.parametrize(("names", "gain"), [(["a"], np.ones(2)), ([], np.ones(0))])
def test_importance_needs_one_group_and_gain_per_name(names: list[str], gain: np.ndarray[Any, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{len(names)} feature names, .* and {len(gain)} gains; give one group"):
        feature_importance(names, names, gain)


def test_exposure_is_accumulated_from_the_most_popular_item_down() -> None:
    counts = np.array([1, 6, 0, 3])  # by popularity: items 1, 3, 0, 2
    figure = popularity_coverage_curve({"full": [[1, 0], [1]], "als": [[2], [3, 2, 2]]}, counts)
    (axes,) = figure.axes
    assert _legend(axes) == ["past interactions", "als (50.0% of the catalogue)", "full (50.0% of the catalogue)"]
    assert _line(axes, "past interactions") == ([1, 2, 3, 4], [0.6, 0.9, 1.0, 1.0])
    assert _line(axes, "als (50.0% of the catalogue)")[1] == [0.0, 0.25, 0.25, 1.0]
    assert _line(axes, "full (50.0% of the catalogue)")[1] == pytest.approx([2 / 3, 2 / 3, 1.0, 1.0])
    assert [to_hex(line.get_color()) == HIGHLIGHT for line in axes.get_lines()] == [False, False, True]
    assert (axes.get_xscale(), axes.get_ylabel()) == ("log", "share of all recommendations")
    _png_size(figure)


def test_exposure_of_a_silent_system_and_a_new_catalogue_is_zero() -> None:
    figure = popularity_coverage_curve({"als": [[], []]}, np.array([0]))
    assert _line(figure.axes[0], "als (0.0% of the catalogue)") == ([1], [0.0])
    _png_size(figure)


def test_rows_outside_the_catalogue_are_refused() -> None:
    with pytest.raises(ValueError, match=r"als recommends 2 rows outside 0\.\.2, \[-1, 3\]; pass item_idx"):
        popularity_coverage_curve({"als": [[0, -1], [3]]}, np.array([1, 2, 3]))
    with pytest.raises(ValueError, match="item_counts is empty"):
        popularity_coverage_curve({}, np.array([], np.int64))


def _points(axes: Any) -> dict[str, list[list[float]]]:
    return {group.get_label(): group.get_offsets().tolist() for group in axes.collections}


def test_embeddings_are_laid_out_along_their_greatest_variance() -> None:
    # Spread 8 along the third dimension, 2 along the first, nothing along the second.
    vectors = np.array([[1.0, 5.0, 4.0], [-1.0, 5.0, 4.0], [1.0, 5.0, -4.0], [-1.0, 5.0, -4.0]], np.float32)
    figure = embedding_projection(vectors, [["war"], ["war"], ["love"], []])
    (axes,) = figure.axes
    points = _points(axes)
    assert points["war (2)"] == [pytest.approx([4.0, 1.0]), pytest.approx([4.0, -1.0])]
    assert points["love (1)"] == [pytest.approx([-4.0, 1.0])]
    assert points["other (1)"] == [pytest.approx([-4.0, -1.0])]
    assert axes.get_xlabel() == "first principal direction (94% of the variance)"
    assert axes.get_ylabel() == "second (6%)"
    _png_size(figure)


def test_an_item_takes_the_rarest_of_the_commonest_categories() -> None:
    rng = np.random.default_rng(5)
    categories = [["drama", "war"]] * 3 + [["drama"]] * 4 + [[f"rare {i}"] for i in range(9)]
    (axes,) = embedding_projection(rng.normal(size=(16, 5)), categories).axes
    labels = _legend(axes)
    assert labels[:3] == ["other (3)", "drama (4)", "war (3)"]
    assert labels[3:] == [f"rare {i} (1)" for i in range(6)]


def test_names_that_the_font_cannot_draw_get_a_number() -> None:
    figure = embedding_projection(np.eye(3, 4), [["战争"], ["$love$"], []])
    assert _legend(figure.axes[0]) == ["other (1)", r"\$love\$ (1)", "category 2 (1)"]
    _png_size(figure)


def test_a_large_catalogue_is_thinned_out_evenly() -> None:
    vectors = np.stack([np.arange(20_001.0), np.zeros(20_001)], axis=1)
    (axes,) = embedding_projection(vectors, [[]] * 20_001).axes
    assert axes.get_title() == "item embeddings, 6667 of 20001 items"
    (points,) = _points(axes).values()
    assert {round(abs(b[0] - a[0])) for a, b in itertools.pairwise(points)} == {3}


@pytest.mark.parametrize(("shape", "n_items"), [((4, 3), 3), ((1, 3), 1), ((3, 1), 3), ((3,), 3)])
def test_embeddings_of_the_wrong_shape_are_refused(shape: tuple[int, ...], n_items: int) -> None:
    with pytest.raises(ValueError, match=rf"embeddings have shape .* for {n_items} items; pass \(n_items, d\)"):
        embedding_projection(np.zeros(shape), [[]] * n_items)


def test_equal_embeddings_are_one_point() -> None:
    (axes,) = embedding_projection(np.ones((3, 2)), [[]] * 3).axes
    assert axes.get_xlabel() == "first principal direction (0% of the variance)"

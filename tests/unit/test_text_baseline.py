"""The text baseline: n-grams bring like texts together, in any script, the same way every time."""

import numpy as np
import pytest

from training.text_baseline import fit_text_baseline

TEXTS = [
    "A storm at sea, sailors and boats",
    "Sailors on the stormy sea",
    "The boat and its sailor",
    "A judge in court, a jury, a verdict",
    "The court and the judge",
    "The jury reached its verdict in court",
    "Bread baked in the oven",
]
HAN = ["海上的船遇到風暴", "風暴來到海上的港口", "船在海上航行", "法官在法庭審判", "審判由法官在法庭進行"]


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.mark.parametrize(("texts", "near", "far"), [(TEXTS, (0, 1), (0, 3)), (HAN, (0, 1), (0, 3))])
def test_texts_with_shared_n_grams_lie_closer(texts: list[str], near: tuple[int, int], far: tuple[int, int]) -> None:
    embeddings = fit_text_baseline(texts, n_components=3, rng=rng()).encode(texts)
    assert embeddings.shape == (len(texts), 3)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, atol=1e-6)
    assert embeddings[near[0]] @ embeddings[near[1]] > embeddings[far[0]] @ embeddings[far[1]] + 0.3


def test_all_components_keep_the_cosines_of_tf_idf_worked_by_hand() -> None:
    # Of the texts "ab", "ab", "cd cd", "cd" every n-gram that two texts share is within " ab " or " cd ";
    # counts differ only in the third, and nothing connects the two groups.
    texts = ["ab", "ab", "cd cd", "cd"]
    embeddings = fit_text_baseline(texts, rng=rng()).encode([*texts, "AB!", "ab cd"])
    cosine = embeddings @ embeddings.T
    np.testing.assert_allclose(cosine[0, [1, 2, 3, 4]], [1, 0, 0, 1], atol=1e-5)
    # " cd ": the n-grams " c", "cd", "d ", " cd", "cd ", " cd " have idf 1 + log(5 / 3), and in "cd cd" twice the
    # count: all weights of that text grow alike, so its direction is that of "cd".
    assert cosine[2, 3] == pytest.approx(1.0, abs=1e-5)
    assert cosine[5, 0] == pytest.approx(np.sqrt(0.5), abs=1e-5)


def test_rare_n_grams_weigh_more() -> None:
    texts = ["xx yy", "xx zz", "xx", "xx", "yy zz", "xx"]
    embeddings = fit_text_baseline(texts, rng=rng()).encode(["xx yy", "xx", "yy"])
    assert embeddings[0] @ embeddings[2] > embeddings[0] @ embeddings[1] + 0.05


def test_new_text_is_encoded_and_text_without_known_n_grams_is_zero() -> None:
    baseline = fit_text_baseline(TEXTS, n_components=4, rng=rng())
    embeddings = baseline.encode(["Boats at sea", "", "!?", "ØØØ", "\ud800"])
    assert embeddings[0] @ baseline.encode(TEXTS)[0] > 0.5
    assert not embeddings[1:].any()


def test_fewer_texts_than_components_give_narrower_embeddings() -> None:
    assert fit_text_baseline(TEXTS, n_components=256, rng=rng()).encode(TEXTS[:2]).shape == (2, len(TEXTS))


@pytest.mark.parametrize("texts", [[], ["", " "], ["ab", "cd"]])
def test_texts_that_share_nothing_give_embeddings_without_columns(texts: list[str]) -> None:
    assert fit_text_baseline(texts, rng=rng()).encode(["ab", ""]).shape == (2, 0)


def test_same_seed_gives_the_same_embeddings() -> None:
    first, again = (fit_text_baseline(TEXTS, n_components=3, rng=rng()).encode(TEXTS) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_more_texts_than_are_read_are_drawn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.text_baseline._MAX_TEXTS", 4)
    assert fit_text_baseline(TEXTS, rng=rng()).encode(TEXTS).shape == (len(TEXTS), 4)

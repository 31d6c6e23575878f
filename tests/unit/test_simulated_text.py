"""The words of the simulated catalogue: whole sentences that tell what an item is about."""

import numpy as np
import polars as pl
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from recsys.datasets.simulated import Simulation, SimulationConfig, simulate
from recsys.datasets.simulated_text import NO_SUBTOPIC, author_names, load_vocabulary, write_comment, write_texts

CONFIG = SimulationConfig()


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return simulate(CONFIG, 7)


def _tfidf(items: pl.DataFrame) -> np.ndarray:
    texts = (items["title"] + ". " + items["description"]).to_list()
    return TfidfVectorizer(stop_words="english", sublinear_tf=True).fit_transform(texts).toarray()


def test_the_nearest_text_is_about_the_same_topic(simulation: Simulation) -> None:
    vectors = _tfidf(simulation.dataset.items)
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -1.0)
    topics = simulation.truth.main_topics()
    chance = (np.bincount(topics) ** 2).sum() / len(topics) ** 2
    agreement = (topics[similarity.argmax(axis=1)] == topics).mean()
    assert chance < 0.12
    assert agreement > 0.85


def test_titles_are_unique_and_texts_are_whole_sentences(simulation: Simulation) -> None:
    items = simulation.dataset.items
    assert items["title"].is_unique().all()
    for text in [*items["title"], *items["description"]]:
        assert text[0].isupper() or text[0].isdigit()
        assert "{" not in text
        assert "  " not in text
    n_sentences = items["description"].str.count_matches(r"\.(\s|$)")
    assert set(n_sentences) == {1, 2, 3}
    assert items["description"].str.ends_with(".").all()


def test_every_template_can_be_filled_for_every_subtopic() -> None:
    vocabulary = load_vocabulary()
    assert len(vocabulary.topic_names) == 12
    assert len(vocabulary.subtopics) == len(set(vocabulary.subtopic_names)) == 60
    for subtopic in vocabulary.subtopics:
        assert len(set(subtopic.things)) >= 6, subtopic.name
        assert min(len(subtopic.tasks), len(subtopic.problems), len(subtopic.facts)) >= 3, subtopic.name
        assert subtopic.style in vocabulary.titles, subtopic.name
    rng = np.random.default_rng(0)
    main = np.repeat(np.arange(60, dtype=np.int32), 60)  # sixty of each, so that every template comes up
    second = np.where(rng.random(len(main)) < 0.5, (main + 7) % 60, NO_SUBTOPIC).astype(np.int32)
    titles, descriptions = write_texts(vocabulary, main, second, rng)
    assert len(set(titles)) == len(titles) == len(descriptions) == 3600
    assert not any("{" in text for text in titles + descriptions)


def test_titles_get_a_part_number_when_the_words_run_out() -> None:
    n = 1500
    alike = np.zeros(n, np.int32), np.full(n, NO_SUBTOPIC, np.int32)
    titles, _ = write_texts(load_vocabulary(), *alike, np.random.default_rng(0))
    assert len(set(titles)) == n
    assert any(title.endswith(", part 2") for title in titles)
    assert not any(", part 2, part" in title for title in titles)


def test_a_pleased_reader_does_not_sound_disappointed() -> None:
    vocabulary = load_vocabulary()
    rng = np.random.default_rng(1)
    pleased = {write_comment(vocabulary, 7, is_positive=True, rng=rng) for _ in range(200)}
    disappointed = {write_comment(vocabulary, 7, is_positive=False, rng=rng) for _ in range(200)}
    assert len(pleased) > 10
    assert not pleased & disappointed


def test_author_names_do_not_repeat() -> None:
    vocabulary = load_vocabulary()
    names = author_names(vocabulary, vocabulary.n_author_names, np.random.default_rng(0))
    assert len(set(names)) == len(names) == 1600

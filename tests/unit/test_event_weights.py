import numpy as np
import pytest

from recsys.histories import InteractionLog
from training.event_weights import KindedLog, learn_event_weights

NAMES = ("click", "like", "view")
SET = {"click": 1.0, "like": 2.0, "view": 0.3}
N_USERS, N_TOPICS, PER_TOPIC = 400, 5, 12


def log_of(seed: int, *, follows: bool = True) -> tuple[KindedLog, np.ndarray]:
    """Histories in which a like tells the topic of what comes next, a click half of the time, a view never."""
    rng = np.random.default_rng(seed)
    topic = np.repeat(np.arange(N_TOPICS), PER_TOPIC)
    embeddings = np.eye(N_TOPICS + 3)[topic] + 0.3 * rng.normal(size=(len(topic), N_TOPICS + 3))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    rows = []
    for user in range(N_USERS):
        favourite = int(rng.integers(N_TOPICS))
        seconds = int(rng.integers(1_000_000))
        for step, item in enumerate(rng.choice(len(topic), 14, replace=False)):
            is_favourite = topic[item] == favourite
            if step > 8 and follows:
                item = rng.choice(np.flatnonzero(topic == favourite))
                is_favourite = True
            shown = [("view", 1.0), ("click", 0.6 if is_favourite else 0.3), ("like", 0.5 if is_favourite else 0.02)]
            for delay, (kind, share) in enumerate(shown):
                if rng.random() < share:
                    rows.append((user, item, (seconds + 100 * step + delay) * 1_000_000, NAMES.index(kind)))
    user, item, time, kind = (np.array(column) for column in zip(*rows, strict=True))
    log = InteractionLog.from_arrays(
        user.astype(np.int32), item.astype(np.int32), time, np.ones(len(user), np.float32),
        n_users=N_USERS, n_items=len(topic),
    )  # fmt: skip
    return KindedLog(log, kind[log.row], NAMES, np.ones(len(log), np.float32)), embeddings.astype(np.float32)


def test_kinds_are_ordered_as_they_tell_what_comes_next():
    events, embeddings = log_of(3)
    found = learn_event_weights(events, embeddings, SET, np.random.default_rng(1))
    assert found.weights["click"] == 1.0
    assert found.weights["like"] > 1.0 > found.weights["view"]
    assert found.intervals["view"][1] < found.intervals["like"][0]


def test_weights_are_relative_to_what_a_click_was_set_to():
    events, embeddings = log_of(3)
    plain = learn_event_weights(events, embeddings, SET, np.random.default_rng(1))
    doubled = learn_event_weights(events, embeddings, SET | {"click": 2.0}, np.random.default_rng(1))
    assert doubled.weights["like"] == pytest.approx(2 * plain.weights["like"], abs=2e-3)


def test_without_influence_the_set_weights_stay():
    events, embeddings = log_of(3, follows=False)
    noise = np.random.default_rng(9).normal(size=embeddings.shape).astype(np.float32)
    found = learn_event_weights(events, noise, SET, np.random.default_rng(1))
    assert found.weights == SET
    assert found.note == "no influence of click on later choices can be shown"


def test_rare_kinds_keep_the_weight_they_had():
    events, embeddings = log_of(3)
    likes = np.flatnonzero(events.kind == 1)
    rare = np.ones(len(events.kind), np.bool_)
    rare[likes[99:]] = False
    fewer = KindedLog(events.log.select(rare), events.kind[rare], NAMES, events.strength[rare])
    found = learn_event_weights(fewer, embeddings, SET, np.random.default_rng(1))
    assert found.weights["like"] == SET["like"]
    assert set(found.intervals) == {"click", "view"}


def test_one_kind_has_nothing_to_be_weighed_against():
    events, embeddings = log_of(3)
    clicks = events.kind == 0
    only = KindedLog(events.log.select(clicks), events.kind[clicks], NAMES, events.strength[clicks])
    found = learn_event_weights(only, embeddings, SET, np.random.default_rng(1))
    assert (found.weights, found.note) == (SET, "fewer than two kinds of event occur 100 times")


def test_too_few_choices_leave_the_weights_as_set():
    events, embeddings = log_of(3)
    early = events.log.user_idx < 20
    few = KindedLog(events.log.select(early), events.kind[early], NAMES, events.strength[early])
    found = learn_event_weights(few, embeddings, SET, np.random.default_rng(1))
    assert found.weights == SET
    assert "choices of new items" in found.note or "kinds of event" in found.note

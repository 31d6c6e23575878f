"""Posted texts are read, weigh by what they say, and complaints keep their items away from who complained."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
from serving_toys import DATA_UNTIL_US, NOW_US, ORDERED_IDS, ToyClock, ToyPath, toy_bundle

from features.path import RankingPath
from recsys.errors import EncoderError
from recsys.histories import InteractionLog
from recsys.models.encoder import TextEncoder
from recsys.models.sentiment import RatingScale, SentimentHead
from recsys.schema import Warmth
from serving.breaker import Breaker
from serving.engine import Engine
from serving.opinions import OpinionReader
from serving.rules import Rules
from serving.slates import NewEvent, Query
from serving.store import Event, EventStore, SqlEventStore

SCALE = RatingScale(1.0, 5.0)


WORDS = ("card", "lovely", "great", "awful", "broken")


class CountingEncoder:
    """Embeds a text as the unit sum of its known words, each an axis, and remembers what it was asked to read."""

    fingerprint = "f00d" * 16

    def __init__(self) -> None:
        self.read: list[str] = []

    def encode(self, texts: Sequence[str]) -> Any:
        self.read += texts
        counts = np.array([[text.split().count(word) for word in WORDS] for text in texts], np.float32)
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)


@pytest.fixture
def encoder() -> CountingEncoder:
    return CountingEncoder()


@pytest.fixture
def head(encoder: CountingEncoder) -> SentimentHead:
    """Likes `lovely` and dislikes `broken`, the latter a little more."""
    return SentimentHead(np.array([0.0, 2.0, 1.5, -1.0, -2.5], np.float32), 0.0, SCALE, encoder.fingerprint)


def reader(head: SentimentHead | None, encoder: CountingEncoder | None, **more: int) -> OpinionReader:
    return OpinionReader(head, cast(TextEncoder, encoder), **more)


def comment(text: str | None, event: str = "comment", item_id: str = "i3", value: float | None = None) -> Event:
    return Event("e", "ann", item_id, event, NOW_US, value, None, text)


def test_a_text_is_read_as_the_head_reads_it(head: SentimentHead, encoder: CountingEncoder) -> None:
    said = reader(head, encoder).signals([comment("  lovely "), comment("broken", "review"), comment("lovely")])

    expected = head.score(encoder.encode(["lovely", "broken"]))
    assert expected[0] > 0.5 > -0.5 > expected[1]
    assert said.tolist() == pytest.approx([expected[0], expected[1], expected[0]])


def test_only_reviews_with_something_to_read_say_anything(head: SentimentHead, encoder: CountingEncoder) -> None:
    events = [comment(None), comment("   "), comment("broken", "purchase"), comment("of unknown words")]

    assert np.isnan(reader(head, encoder).signals(events)).all()
    assert encoder.read == ["of unknown words"]


@pytest.mark.parametrize("lacks", ["head", "encoder"])
def test_without_a_head_nothing_is_read(head: SentimentHead, encoder: CountingEncoder, lacks: str) -> None:
    blind = reader(None, encoder) if lacks == "head" else reader(head, None)

    assert np.isnan(blind.signals([comment("broken"), comment("lovely")])).all()
    assert encoder.read == []


def test_a_text_is_encoded_once(head: SentimentHead, encoder: CountingEncoder) -> None:
    of_texts = reader(head, encoder)
    first = of_texts.signals([comment("broken"), comment("lovely"), comment("broken")])
    again = of_texts.signals([comment("lovely"), comment("broken"), comment("lovely card")])

    assert encoder.read == ["broken", "lovely", "lovely card"]
    assert again[:2].tolist() == [first[1], first[0]]


class FailingEncoder(CountingEncoder):
    """Fails on batches with a certain word, and on all while `is_away`."""

    is_away = False

    def encode(self, texts: Sequence[str]) -> Any:
        if self.is_away or any("poison" in text for text in texts):
            self.read += texts
            raise EncoderError("out of memory")
        return super().encode(texts)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_text_that_cannot_be_read_says_nothing_and_keeps_no_other_from_it(
    head: SentimentHead, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = FailingEncoder()
    of_texts = OpinionReader(head, cast(TextEncoder, encoder))
    for _ in range(2):
        said, is_read = of_texts.read([comment("lovely"), comment("poison"), comment("broken")])
        assert np.isnan(said).tolist() == [False, True, False]
        assert not is_read

    assert encoder.read.count("lovely") == 2, "kept though its neighbour is not: once together, once alone"
    assert encoder.read.count("poison") == 3
    (told,) = caplog.records
    assert told.getMessage() == "reviews count by their rating or kind while they cannot be read: out of memory"


def test_an_encoder_that_fails_rests_and_what_was_not_read_is_read_later(head: SentimentHead) -> None:
    encoder, clock = FailingEncoder(), Clock()
    encoder.is_away = True
    of_texts = OpinionReader(head, cast(TextEncoder, encoder), clock=clock)
    texts = [f"lovely {number}" for number in range(100)]
    for _ in range(10):
        assert np.isnan(of_texts.signals([comment(text) for text in texts])).all()
    assert len(encoder.read) == 102, "all at once, then two alone"

    encoder.is_away = False
    clock.now += 3.1
    said, is_read = of_texts.read([comment(text) for text in texts])
    assert (said > 0.5).all()
    assert is_read


def test_only_the_latest_signals_are_kept(head: SentimentHead, encoder: CountingEncoder) -> None:
    of_texts = reader(head, encoder, max_kept=2)
    of_texts.signals([comment("lovely"), comment("great"), comment("awful")])
    of_texts.signals([comment("great"), comment("awful")])
    of_texts.signals([comment("lovely")])

    assert encoder.read == ["lovely", "great", "awful", "lovely"]


def engine_of(
    head: SentimentHead | None,
    encoder: CountingEncoder,
    path: ToyPath,
    *,
    store: EventStore | None = None,
    seen: InteractionLog | None = None,
    sentiment: str = "auto",
) -> Engine:
    bundle = toy_bundle(
        {"data.rating_scale": [1.0, 5.0], "data.sentiment": sentiment, "data.event_weights": {"comment": 2.0}}
    )
    for name, part in {"sentiment": head, "encoder": encoder, "seen": seen}.items():
        setattr(bundle.models, name, part)
    return Engine(bundle, store or SqlEventStore("sqlite://"), path=cast(RankingPath, path), clock=ToyClock())


def posted(item_id: str, text: str | None = None, value: float | None = None, user_id: str = "new") -> NewEvent:
    return NewEvent(user_id, item_id, "comment", timestamp_us=NOW_US - 10, value=value, text=text)


def listed(engine: Engine, **query: Any) -> list[str]:
    return [item.item_id for item in engine.recommend(Query(user_id="new", **query)).items]


def test_a_posted_complaint_is_no_liking_and_its_item_is_not_recommended_again(
    head: SentimentHead, encoder: CountingEncoder
) -> None:
    path = ToyPath()
    engine = engine_of(head, encoder, path)
    engine.add_events([posted("i3", "broken"), posted("i6", "lovely")])
    slate = engine.recommend(Query(user_id="new"))

    expected = head.score(encoder.encode(["lovely"])) * 2.0
    assert path.requests[0].history.item_idx.tolist() == [6]
    assert path.requests[0].history.weight.tolist() == pytest.approx(expected.tolist())
    engine.follower.catch_up()
    assert path.recorded == [(6, NOW_US - 10, "interactions", pytest.approx(float(expected[0])))]
    assert path.excluded == [[3, 6]]
    assert [item.item_id for item in slate.items] == [id_ for id_ in ORDERED_IDS if id_ not in ("i3", "i6")]
    assert slate.user == Warmth.COLD


def test_a_complaint_touches_nobody_else(head: SentimentHead, encoder: CountingEncoder) -> None:
    engine = engine_of(head, encoder, ToyPath())
    engine.add_events([posted("i3", "broken", user_id="somebody else")])

    assert listed(engine) == ORDERED_IDS


def test_what_was_complained_of_stays_where_the_request_asks_for_it(
    head: SentimentHead, encoder: CountingEncoder
) -> None:
    engine = engine_of(head, encoder, ToyPath())
    engine.add_events([posted("i3", "broken")])

    assert "i3" not in listed(engine)
    assert "i3" in listed(engine, rules=Rules(exclude_seen=False))
    assert listed(engine, candidates=["i3", "i1"]) == ["i3", "i1"]


def test_a_rating_alone_is_a_complaint_too(encoder: CountingEncoder) -> None:
    engine = engine_of(None, encoder, ToyPath())
    engine.add_events([posted("i3", "lovely", value=1.0)])

    assert listed(engine)[0] == "i1"


@pytest.mark.parametrize("sentiment", ["auto", "off"])
def test_without_a_head_a_comment_counts_as_its_kind(encoder: CountingEncoder, sentiment: str) -> None:
    path = ToyPath()
    engine = engine_of(None, encoder, path, sentiment=sentiment)
    engine.add_events([posted("i3", "broken")])
    engine.recommend(Query(user_id="new"))

    assert path.requests[0].history.weight.tolist() == [2.0]
    engine.follower.catch_up()
    assert path.recorded == [(3, NOW_US - 10, "interactions", 2.0)]


def test_requests_find_posted_texts_read(head: SentimentHead, encoder: CountingEncoder) -> None:
    engine = engine_of(head, encoder, ToyPath())
    engine.add_events([posted("i3", "broken"), posted("i6", "lovely")])
    read = list(encoder.read)
    listed(engine)
    listed(engine)

    assert read == encoder.read == ["broken", "lovely"]


def test_a_failing_encoder_refuses_no_events_and_no_lists(head: SentimentHead) -> None:
    encoder, path = FailingEncoder(), ToyPath()
    encoder.is_away = True
    engine = engine_of(head, encoder, path)
    engine._opinions._breaker = Breaker(0.0)  # no rest
    assert len(engine.add_events([posted("i3", "broken"), posted("i6", "lovely", value=1.0)]).event_ids) == 2

    unread = listed(engine)
    assert path.requests[-1].history.item_idx.tolist() == [3], "one counts as its kind, the other by its rating"
    engine.follower.catch_up()
    assert [row[0] for row in path.recorded] == [3]

    encoder.is_away = False
    read = listed(engine)
    assert path.requests[-1].history.item_idx.tolist() == []
    assert unread == read == [id_ for id_ in ORDERED_IDS if id_ not in ("i3", "i6")]


def test_texts_of_before_a_restart_are_read_as_they_are_replayed(head: SentimentHead, encoder: CountingEncoder) -> None:
    store, path = SqlEventStore("sqlite://"), ToyPath()
    engine_of(None, encoder, ToyPath(), store=store).add_events(
        [posted("i3", "broken"), posted("i6", "lovely"), NewEvent("new", "i1", "click", timestamp_us=DATA_UNTIL_US - 1)]
    )
    engine = engine_of(head, encoder, path, store=store)

    engine.follower.catch_up()
    assert [row[0] for row in path.recorded] == [6]
    assert encoder.read == ["broken", "lovely"]
    assert "i3" not in listed(engine)


def test_complaints_of_the_training_log_are_not_recommended_to_their_user(
    head: SentimentHead, encoder: CountingEncoder
) -> None:
    def column(values: list[int], kind: type) -> Any:
        return np.asarray(values, kind)

    seen = InteractionLog.from_arrays(
        column([1, 2], np.int32),
        column([3, 1], np.int32),
        column([5, 6], np.int64),
        column([0, 0], np.float32),
        n_users=3,
        n_items=7,
    )
    path = ToyPath()
    engine = engine_of(head, encoder, path, seen=seen)
    for user_id in ("bob", "shown-only", "ann", "stranger"):
        engine.recommend(Query(user_id=user_id))
    engine.recommend(Query(user_id="bob", rules=Rules(exclude_seen=False)))

    # bob did i2 and complained of i3, who was only shown something complained of i1, ann did i0 and i4.
    assert path.excluded == [[2, 3], [1], [0, 4], [], []]

"""Turns kinds of event, ratings and texts into the weights that everything behind the text stage is fitted with.

The order: the encoder is tuned on behaviour first, without what ratings alone show to be complaints; its embeddings
carry the sentiment head; the head's signals, the ratings and the learned weights of kinds then make the log that
factors, transitions, the ranker's labels and the test read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from recsys.config import Config, DataConfig
from recsys.datasets.dataset import Dataset
from recsys.datasets.encoded import EncodedData
from recsys.errors import ConfigError, DataError
from recsys.histories import ImpressionLog, InteractionLog
from recsys.models.encoder import TextEncoder
from recsys.models.sentiment import REVIEW_KINDS, RatingScale, SentimentHead, review_signal, signed_weight
from recsys.schema import Col
from recsys.splits import Fold, Split
from training.desk import Desk, seed_for
from training.event_weights import KindedLog, learn_event_weights
from training.reviews import Events, ReadTexts, read_texts
from training.sentiment import MIN_REVIEWS, MIN_USERS, RatedReviews, SentimentFit, can_learn, fit_sentiment
from training.text import TextStage, run_text_stage

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Signals:
    """The data with every event weighed, and what was decided on the way.

    data: its log holds what expresses liking, its `seen` the complaints, and none of them counts as a click. split:
    folds of the new log. config: with the scale of the ratings and learned weights filled in, and sentiment off where
    it was found not to apply; serving weighs new events by it. head: None where texts take no part.
    """

    data: EncodedData
    split: Split
    config: Config
    head: SentimentHead | None = None
    report: Mapping[str, Any] = field(default_factory=dict)


def fit_text(
    dataset: Dataset, data: EncodedData, split: Split, config: Config, desk: Desk, key: str, *, hidden_idx: Int32
) -> TextStage:
    """Return the text stage's result, without an encoder where there is nothing that one would read.

    An encoder reads the catalogue and, where they are signed, reviews; a `small` one has only the catalogue to learn
    from. What a rating shows to be a complaint teaches it nothing. For the other arguments see
    `training.text.run_text_stage`.
    """
    if not any(text.strip() for text in data.catalogue.texts):
        events = Events.read(dataset, data.log)
        reads_reviews = bool(events.texts) and _scale_if_signed(events, split, config.data) is not None
        if config.encoder.kind == "small" or not reads_reviews:
            desk.reporter.say("  no item has any text: there is no text encoder")
            return TextStage.without_text(len(data.catalogue))
    told, visible = for_encoder(dataset, data, split, config)
    return run_text_stage(told, split, config, desk, key, visible=visible, hidden_idx=hidden_idx)


def for_encoder(dataset: Dataset, data: EncodedData, split: Split, config: Config) -> tuple[EncodedData, Bool]:
    """Return the data for the text stage, without clicks that are rated complaints, and which interactions are none.

    The latter is bool `(len(log),)`.
    """
    visible = ~rated_complaints(dataset, data, split, config)
    return replace(data, impressions=_clicks_of(dataset, data.log, data.impressions, visible)), visible


def rated_complaints(dataset: Dataset, data: EncodedData, split: Split, config: Config) -> Bool:
    """Return which interactions a rating shows to be no liking, bool `(len(log),)`.

    None of them where `data.sentiment` does not apply.
    """
    events = Events.read(dataset, data.log)
    scale = _scale_if_signed(events, split, config.data)
    if scale is None:
        return np.zeros(len(data.log), np.bool_)
    return scale.signal(events.rating) < 0.0


def apply_signals(
    dataset: Dataset, data: EncodedData, split: Split, text: TextStage, config: Config, desk: Desk, key: str
) -> Signals:
    """Return the data with weights that say how much, and whether, each event expresses liking.

    A review's weight is its kind's, scaled by a positive signal (`recsys.models.sentiment.review_signal`); without one
    it leaves the log for `seen`, and where no other event speaks for the item that was shown, it was not clicked. A
    text's own user's ratings never teach the head that reads it, and nothing of the test fold teaches at all.

    key: hash of the data and of what else is particular to the caller.

    Raises:
        DataError: `data.sentiment` is on and there is too little to learn from.
        ConfigError: `data.sentiment` is on, and `min_rating` hides the complaints while no `rating_scale` is set, or
            nothing could read the texts.
    """
    events = Events.read(dataset, data.log)
    scale = _scale_if_signed(events, split, config.data)
    signal, fit = np.full(len(data.log), np.nan), None
    report: dict[str, Any] = {}
    if scale is not None:
        if text.encoder is None and events.texts and config.data.sentiment == "on":
            raise ConfigError(
                "data.sentiment is on, but no item has text that a small encoder could learn to read reviews from; "
                "set encoder.kind to pretrained, or data.sentiment to auto, under which ratings alone count"
            )
        texts = read_texts(events, data.log, text.encoder, config.data.max_review_texts, desk, key)
        signal, fit = _read_reviews(events, texts, scale, data.log, split, config, desk)
        report["sentiment"] = _sentiment_report(events, signal, fit)
        for line in _told(report["sentiment"]):
            desk.reporter.say(f"  {line}")
    strength = signed_weight(np.ones(len(signal)), signal)
    weights = dict(config.data.event_weights)
    if config.data.learn_event_weights:
        learned, report["event_weights"] = _learn_weights(events, data, split, text, strength, config, desk)
        weights |= learned
    decided: dict[str, Any] = {"event_weights": weights}
    decided |= {"sentiment": "off"} if scale is None else {"rating_scale": (scale.low, scale.high)}
    config = config.model_copy(update={"data": config.data.model_copy(update=decided)})
    of_kind = np.array([weights.get(name, 1.0) for name in events.names])
    return Signals(
        _weigh(dataset, data, of_kind[events.kind], strength),
        replace(split, interaction_fold=split.interaction_fold[strength > 0]),
        config,
        None if fit is None else fit.head,
        report,
    )


def with_signals(
    dataset: Dataset, data: EncodedData, head: SentimentHead | None, encoder: TextEncoder | None, config: DataConfig
) -> EncodedData:
    """Return newer data weighed as a finished training's bundle says; nothing is fitted.

    config: the bundle's, with its rating scale.
    """
    if config.sentiment == "off" or config.rating_scale is None:
        return data
    events = Events.read(dataset, data.log)
    of_text = np.full(len(data.log), np.nan)
    if head is not None and encoder is not None and len(events.texts):
        texts = ReadTexts(encoder.encode(events.texts), encoder.fingerprint)
        readable = texts.readable(events)
        of_text[readable] = head.score(texts.embeddings)[events.text[readable]]
    signal = review_signal(RatingScale(*config.rating_scale).signal(events.rating), of_text)
    return _weigh(dataset, data, data.log.weight, signed_weight(np.ones(len(signal)), signal))


def _scale_if_signed(events: Events, split: Split, config: DataConfig) -> RatingScale | None:
    """Return the scale of the ratings where reviews are to be signed, else None."""
    if config.sentiment == "off" or not len(events.rating):
        return None
    known = split.known_before(Fold.TEST)
    scale = events.scale(known, config)
    if config.sentiment == "on":
        if config.min_rating is not None and config.rating_scale is None:
            raise ConfigError(
                f"data.sentiment is on, but data.min_rating {config.min_rating:g} leaves complaints out before they "
                "are read; set data.min_rating to null, or say how far ratings reach in data.rating_scale"
            )
        if scale is None:
            raise DataError(
                "data.sentiment is on, but the interactions before the test have no two different ratings; bring "
                f"events of kind {', '.join(REVIEW_KINDS)} with a value, or set data.sentiment to auto"
            )
        return scale
    return scale if (known & events.is_rated & events.has_text).any() else None


def _read_reviews(
    events: Events,
    texts: ReadTexts,
    scale: RatingScale,
    log: InteractionLog,
    split: Split,
    config: Config,
    desk: Desk,
) -> tuple[Float64, SentimentFit | None]:
    """Return the signal of every event, NaN for those that are no review, and the head if there is one."""
    known = split.known_before(Fold.TEST)
    readable = texts.readable(events)
    rows = known & events.is_rated & readable
    reviews = RatedReviews(
        texts.embeddings[events.text[rows]], events.rating[rows], log.user_idx[rows], texts.encoder_fingerprint
    )
    fit = _fit_head(reviews, scale, config, desk)
    of_text = np.full(len(log), np.nan)
    if fit is not None:
        # Before the test by heads that have not seen the user's own ratings, later by the one that is served.
        early, late = known & readable, ~known & readable
        of_text[early] = fit.score(texts.embeddings[events.text[early]], log.user_idx[early])
        of_text[late] = fit.head.score(texts.embeddings[events.text[late]])
    return review_signal(scale.signal(events.rating), of_text), fit


def _fit_head(reviews: RatedReviews, scale: RatingScale, config: Config, desk: Desk) -> SentimentFit | None:
    """Return the head where texts can be learned and, with sentiment auto, tell more than the base rate."""
    if not can_learn(reviews, scale):
        said = (
            f"{len(reviews)} rated reviews with text before the test, of which at least {MIN_REVIEWS} by {MIN_USERS} "
            f"users must lie above the middle of {scale.low:g} to {scale.high:g}, and as many not"
        )
        if config.data.sentiment == "on":
            raise DataError(f"data.sentiment is on, but there are {said}; bring more reviews, or set it to auto")
        desk.reporter.say(f"  texts of reviews are not read: {said}; ratings alone count")
        return None
    seed = seed_for(config.seed, "sentiment")
    fit = desk.run("sentiment head", lambda _: fit_sentiment(reviews, scale, seed, config.data.complaint_cost))
    if config.data.sentiment == "auto" and not fit.beats_base_rate:
        desk.reporter.say("  texts of reviews tell no more than the base rate: ratings alone count")
        return None
    return fit


def _learn_weights(
    events: Events,
    data: EncodedData,
    split: Split,
    text: TextStage,
    strength: Float32,
    config: Config,
    desk: Desk,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return learned weights of the kinds in the log, and their report; from what precedes the ranker's labels."""
    past = split.known_before(Fold.LABEL) & (strength > 0)
    kinded = KindedLog(data.log.select(past), events.kind[past], events.names, strength[past])
    rng = np.random.default_rng(seed_for(config.seed, "event weights"))
    found = desk.run(
        "event weights", lambda _: learn_event_weights(kinded, text.embeddings, config.data.event_weights, rng)
    )
    shown = ", ".join(
        f"{name} {found.weights[name]:g} [{lo:.2f}, {hi:.2f}]" for name, (lo, hi) in found.intervals.items()
    )
    desk.reporter.say(f"  event weights: {shown or f'as set, since {found.note}'}")
    report = {"weights": found.weights, "intervals": found.intervals, "reference": found.reference}
    return found.weights, report | {"n_choices": found.n_targets, "note": found.note}


def _weigh(
    dataset: Dataset, data: EncodedData, event_weight: npt.NDArray[np.floating], strength: Float32
) -> EncodedData:
    """Return data with new weights; rows of strength 0 leave the log for `seen`, and are no clicks."""
    liked = strength > 0
    log = replace(data.log, weight=(event_weight * strength).astype(np.float32))
    impressions = _clicks_of(dataset, data.log, data.impressions, liked)
    return replace(data, log=log.select(liked), seen=log.select(~liked), impressions=impressions)


def _clicks_of(
    dataset: Dataset, log: InteractionLog, impressions: ImpressionLog | None, liked: Bool
) -> ImpressionLog | None:
    """Return what was shown, not clicked where all the user's events on the item that name the request are disliked.

    liked: bool `(len(log),)`. The log's rows must be those of the data set's interactions.
    """
    if impressions is None or liked.all() or Col.REQUEST_ID not in dataset.interactions.columns:
        return impressions
    keys = [Col.REQUEST_ID, Col.USER_ID, Col.ITEM_ID]
    events = pl.DataFrame([dataset.interactions[Col.REQUEST_ID][log.row], *_keys(log.user_idx, log.item_idx)])
    events = events.with_columns(pl.Series("liked", liked)).drop_nulls(Col.REQUEST_ID)
    disliked = events.group_by(keys).agg(pl.col("liked").any()).filter(~pl.col("liked"))
    rows = np.flatnonzero(impressions.clicked)
    request = impressions.row_request[rows]
    request_id = pl.Series(Col.REQUEST_ID, impressions.request_id, pl.String)[request]
    clicks = pl.DataFrame([request_id, *_keys(impressions.user_idx[request], impressions.item_idx[rows])])
    clicked = np.zeros_like(impressions.clicked)
    clicked[rows] = clicks.join(disliked, on=keys, how="left", maintain_order="left")["liked"].is_null().to_numpy()
    return replace(impressions, clicked=clicked)


def _keys(user_idx: Int32, item_idx: Int32) -> tuple[pl.Series, pl.Series]:
    return pl.Series(Col.USER_ID, user_idx), pl.Series(Col.ITEM_ID, item_idx)


def _sentiment_report(events: Events, signal: Float64, fit: SentimentFit | None) -> dict[str, Any]:
    signed = ~np.isnan(signal)
    return {
        "n_signed": int(signed.sum()),
        "n_complaints": int((signed & (signal <= 0)).sum()),
        "n_complaints_unrated": int((signed & (signal <= 0) & ~events.is_rated).sum()),
        "mean_signal": float(signal[signed].mean()) if signed.any() else 0.0,
        "head": None if fit is None else dict(fit.report),
    }


def _told(report: Mapping[str, Any]) -> Sequence[str]:
    lines = [f"{report['n_signed']} reviews weigh by what they say; {report['n_complaints']} are complaints"]
    if (head := report["head"]) is not None:
        auc = head["auc"]
        found, called = head["called_rightly"], head["called_complaints"]
        lines.append(f"sentiment head: AUC {auc['mean']:.3f} ({auc['lo']:.3f} to {auc['hi']:.3f}), held-out users")
        lines.append(
            f"it finds {found} of {head['n_complaints']} complaints, and takes {called - found} others for one"
        )
    return lines

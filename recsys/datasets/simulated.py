"""A simulated magazine: items with text, users whose interests change, a log of slates and clicks, and the truth."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from recsys.datasets.dataset import Dataset
from recsys.datasets.simulated_log import (
    Requests,
    Shown,
    draw_click_times,
    draw_follow_ups,
    draw_requests,
    simulate_log,
)
from recsys.datasets.simulated_text import (
    NO_SUBTOPIC,
    Vocabulary,
    author_names,
    load_vocabulary,
    write_comment,
    write_texts,
)
from recsys.datasets.simulated_truth import Int32, Int64, Truth
from recsys.datasets.simulated_world import (
    DrawnItems,
    SimulationConfig,
    draw_interest_states,
    draw_items,
    draw_sessions,
)
from recsys.schema import IMPRESSIONS, TIMESTAMP, Col

__all__ = ["Simulation", "SimulationConfig", "Truth", "simulate", "write_sample"]

TRUTH_FILE: Final = "truth.npz"
_MIN_ID_DIGITS: Final = 4
_PRICE_PER_MINUTE: Final = 0.05


@dataclass(frozen=True)
class Simulation:
    """A simulated log and the truth behind it. Rows of `dataset.items` and `dataset.users` are the truth's rows."""

    dataset: Dataset
    truth: Truth


def simulate(config: SimulationConfig, seed: int | np.random.SeedSequence) -> Simulation:
    """Return a simulated log with its truth, the same for the same config and seed.

    Items, texts, users, sessions and behaviour draw from streams of their own: a change of `interest_strength` leaves
    the catalogue and the visits as they are. A `SeedSequence` is not changed by the call.
    """
    # Spawning counts up inside a SeedSequence; a copy keeps the caller's as it was.
    given = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    root = np.random.SeedSequence(given.entropy, spawn_key=given.spawn_key, pool_size=given.pool_size)
    item_rng, text_rng, user_rng, session_rng, interest_rng, log_rng, event_rng = map(
        np.random.default_rng, root.spawn(7)
    )
    vocabulary = load_vocabulary()
    items = draw_items(config, vocabulary.topic_of_subtopic, vocabulary.n_author_names, item_rng)
    n_countries, n_devices = (len(vocabulary.words[name]) for name in ("countries", "devices"))
    country = user_rng.integers(n_countries, size=config.n_users, dtype=np.int32)
    device = user_rng.integers(n_devices, size=config.n_users, dtype=np.int32)
    sessions = draw_sessions(config, session_rng)
    state_user_idx, state_since_us, state_interests = draw_interest_states(
        config, vocabulary.topic_of_subtopic, country, sessions, interest_rng
    )
    truth = Truth(
        topic_names=np.array(vocabulary.topic_names),
        subtopic_names=np.array(vocabulary.subtopic_names),
        topic_of_subtopic=vocabulary.topic_of_subtopic,
        mixtures=items.mixtures(len(vocabulary.subtopics)),
        quality=items.quality,
        state_user_idx=state_user_idx,
        state_since_us=state_since_us,
        state_interests=state_interests,
        examination=np.arange(1.0, config.slate_size + 1.0) ** -config.position_bias_exponent,
        base_relevance=config.base_relevance,
        interest_strength=config.interest_strength,
        quality_strength=config.quality_strength,
    )
    requests = draw_requests(config, sessions, session_rng)
    shown = simulate_log(config, truth, items.created_at_us, requests, log_rng)
    item_table = _items_table(config, vocabulary, items, text_rng)
    users = _users_table(vocabulary, country, device)
    impressions = _impressions_table(item_table, users, requests, shown)
    interactions = _interactions_table(config, vocabulary, items, impressions, requests, shown, event_rng)
    return Simulation(Dataset(item_table, interactions, impressions, users, name="simulated"), truth)


def write_sample(folder: Path, simulation: Simulation) -> None:
    """Write `items`, `interactions`, `impressions` and `users` as Parquet into `folder`, and `truth.npz` beside them.

    The folder is created when it is not there; files of these names are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dataset = simulation.dataset
    tables = {
        "items": dataset.items,
        "interactions": dataset.interactions,
        "impressions": dataset.impressions,
        "users": dataset.users,
    }
    for name, table in tables.items():
        if table is not None:
            table.write_parquet(folder / f"{name}.parquet")
    simulation.truth.save(folder / TRUTH_FILE)


def _ids(prefix: str, n: int) -> list[str]:
    """Return ids whose order as strings is their order as numbers."""
    digits = max(_MIN_ID_DIGITS, len(str(n - 1)))
    return [f"{prefix}{i:0{digits}d}" for i in range(n)]


def _items_table(
    config: SimulationConfig, vocabulary: Vocabulary, items: DrawnItems, rng: np.random.Generator
) -> pl.DataFrame:
    titles, descriptions = write_texts(vocabulary, items.main, items.second, rng)
    names = author_names(vocabulary, items.n_authors, rng)
    noise = rng.random(config.n_items)  # below category_noise/2: no categories; below category_noise: the broad one
    categories: list[list[str]] = []
    for main, second, u in zip(items.main.tolist(), items.second.tolist(), noise.tolist(), strict=True):
        subtopic = vocabulary.subtopics[main]
        found = [subtopic.topic, subtopic.name]
        if second != NO_SUBTOPIC:
            other = vocabulary.subtopics[second]
            found += [name for name in (other.topic, other.name) if name not in found]
        missing = u < config.category_noise / 2
        categories.append([] if missing else found[:1] if u < config.category_noise else found)
    return pl.DataFrame(
        {
            Col.ITEM_ID: _ids("i", config.n_items),
            Col.TITLE: titles,
            Col.DESCRIPTION: descriptions,
            Col.CATEGORIES: pl.Series(categories, dtype=pl.List(pl.String)),
            Col.CREATED_AT: pl.Series(items.created_at_us).cast(TIMESTAMP),
            "author": [names[i] for i in items.author_idx.tolist()],
            "reading_minutes": items.reading_minutes.astype(np.float64),  # as numeric attributes are read from files
        }
    )


def _users_table(vocabulary: Vocabulary, country: Int32, device: Int32) -> pl.DataFrame:
    return pl.DataFrame(
        {
            Col.USER_ID: _ids("u", len(country)),
            "country": [vocabulary.words["countries"][i] for i in country.tolist()],
            "device": [vocabulary.words["devices"][i] for i in device.tolist()],
        }
    )


def _impressions_table(items: pl.DataFrame, users: pl.DataFrame, requests: Requests, shown: Shown) -> pl.DataFrame:
    request_ids = pl.Series(_ids("r", len(requests.at_us)), dtype=pl.String)
    return pl.DataFrame(
        {
            Col.REQUEST_ID: request_ids.gather(shown.request),
            Col.USER_ID: users[Col.USER_ID].gather(requests.user_idx[shown.request]),
            Col.TIMESTAMP: pl.Series(requests.at_us[shown.request]).cast(TIMESTAMP),
            Col.ITEM_ID: items[Col.ITEM_ID].gather(shown.item_idx),
            Col.POSITION: shown.position,
            Col.CLICKED: shown.clicked,
            Col.PROPENSITY: pl.Series(shown.propensity).fill_nan(None),
        },
        schema=IMPRESSIONS.dtypes,
    )


def _interactions_table(
    config: SimulationConfig,
    vocabulary: Vocabulary,
    items: DrawnItems,
    impressions: pl.DataFrame,
    requests: Requests,
    shown: Shown,
    rng: np.random.Generator,
) -> pl.DataFrame:
    """Return clicks and what followed them in order of time; a purchase's value is its price, a comment has text."""
    click_rows, click_us = draw_click_times(requests, shown, rng)
    kinds = [_events_of("click", click_rows, click_us, impressions)]
    for kind in draw_follow_ups(config, shown, click_rows, click_us, rng):
        events = _events_of(kind.event, kind.row, kind.at_us, impressions)
        if kind.event == "purchase":
            price = np.round(1.0 + _PRICE_PER_MINUTE * items.reading_minutes[shown.item_idx[kind.row]], 2)
            events = events.with_columns(pl.Series(Col.VALUE, price, dtype=pl.Float64))
        if kind.event == "comment":
            subtopics = items.main[shown.item_idx[kind.row]].tolist()
            texts = [
                write_comment(vocabulary, subtopic, is_positive=is_pleased, rng=rng)
                for subtopic, is_pleased in zip(subtopics, kind.is_pleased.tolist(), strict=True)
            ]
            events = events.with_columns(pl.Series(Col.TEXT, texts, dtype=pl.String))
        kinds.append(events)
    return pl.concat(kinds).sort(Col.TIMESTAMP, maintain_order=True)


def _events_of(event: str, rows: Int64, at_us: Int64, impressions: pl.DataFrame) -> pl.DataFrame:
    shown = impressions.select(Col.USER_ID, Col.ITEM_ID, Col.REQUEST_ID)[rows]
    return shown.select(
        pl.col(Col.USER_ID),
        pl.col(Col.ITEM_ID),
        pl.Series(Col.TIMESTAMP, at_us).cast(TIMESTAMP),
        pl.lit(event).alias(Col.EVENT),
        pl.lit(None, dtype=pl.Float64).alias(Col.VALUE),
        pl.col(Col.REQUEST_ID),
        pl.lit(None, dtype=pl.String).alias(Col.TEXT),
    )

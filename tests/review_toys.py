"""A toy shop whose customers write what they think: some with stars, some without."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from tiny import write_toy_encoder

from recsys.config import Config
from recsys.datasets.dataset import Dataset
from recsys.datasets.encoded import EncodedData, encode_dataset
from recsys.models.encoder import TextEncoder
from recsys.schema import INTERACTIONS, Col
from recsys.splits import Split, make_split
from training.desk import Desk
from training.progress import Reporter
from training.text import TextStage
from training.timings import Stage
from training.work import WorkFolder

PRAISE = ("lovely", "great", "perfect", "happy")
BLAME = ("broken", "refund", "awful", "useless")
_FILLER = ("card", "gift", "box", "it", "came", "today", "for", "my")
N_USERS, N_ITEMS = 60, 17
_START = datetime(2024, 1, 1, tzinfo=UTC)


class NoClock:
    """Times nothing."""

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        yield Stage(name)


def review_text(*, is_pleased: bool, rng: np.random.Generator) -> str:
    """Return four words, one of them of praise or of blame."""
    word = rng.choice(PRAISE if is_pleased else BLAME)
    return " ".join(rng.permutation([word, *rng.choice(_FILLER, 3, replace=False)]))


def shop(*, seed: int = 5, complaint_share: float = 0.15) -> Dataset:
    """Return eight events of each user, hours apart: four rated reviews, two unrated comments, two clicks.

    Pleased reviewers give 5 or 4 stars, the others 1 or 2, and the text always fits. The comments' mood is in their
    `request_id` (`pleased` or `not`), which nothing reads.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(N_USERS):
        items = rng.choice(N_ITEMS, 8, replace=False)
        for place, (item, event) in enumerate(
            zip(items, rng.permutation(["rating"] * 4 + ["comment"] * 2 + ["click"] * 2), strict=True)
        ):
            is_pleased = bool(rng.random() >= complaint_share)
            stars = float(rng.choice([4, 5] if is_pleased else [1, 2])) if event == "rating" else None
            text = review_text(is_pleased=is_pleased, rng=rng) if event != "click" else None
            time = _START + timedelta(hours=place * N_USERS + user)
            rows.append(
                (f"u{user:02}", f"i{item:02}", time, str(event), stars, "pleased" if is_pleased else "not", text)
            )
    interactions = pl.DataFrame(rows, schema=INTERACTIONS.dtypes, orient="row").sort(Col.TIMESTAMP)
    items = pl.DataFrame({Col.ITEM_ID: [f"i{item:02}" for item in range(N_ITEMS)], Col.TITLE: ["gift card"] * N_ITEMS})
    return Dataset(items, interactions, name="shop")


def prepared(dataset: Dataset, config: Config, folder: Path) -> tuple[EncodedData, Split, TextStage, Desk]:
    """Return what `apply_signals` takes, with an encoder that knows the words of the reviews."""
    data = encode_dataset(dataset, config.data)
    split = make_split(data.log, data.impressions, config.split)
    words = [" ".join((*PRAISE, *BLAME, *_FILLER))]
    encoder_folder = folder / "encoder"
    if not encoder_folder.exists():
        write_toy_encoder(encoder_folder, words)
    encoder = TextEncoder.load(encoder_folder, n_threads=1)
    text = TextStage(encoder, encoder_folder, encoder.encode(data.catalogue.texts), {})
    return data, split, text, Desk(WorkFolder(folder / "work"), Reporter(quiet=True), NoClock())

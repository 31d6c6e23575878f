"""Everything that a training fitted, as plain arrays: what is served and what is evaluated."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from recsys.catalogue import Catalogue
from recsys.config import Config
from recsys.counters import Counters
from recsys.histories import InteractionLog
from recsys.ids import IdMap
from recsys.models.covisitation import Covisitation
from recsys.models.encoder import TextEncoder
from recsys.models.factors import ItemFactors
from recsys.models.linear_items import Ease, NextItem
from recsys.models.ranker import Ranker
from recsys.models.sentiment import SentimentHead
from recsys.models.sequence import SequenceModel

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FittedModels:
    """Fitted parts that belong together; row `i` of every item array is item `i` of the catalogue.

    log: the interactions that the parts were fitted on, which are also the known users' histories.
    user_attributes: float32 `(n_users, n_attributes)`, NaN where missing.
    item_embeddings: float32 `(n_items, embedding_size)`, unit rows, zero where an item has no text.
    sequence: None where it was switched off. ranker: None until one has been trained.
    sentiment: reads posted reviews with `encoder`; None where texts take no part. seen: complaints of the training log,
    which taught nothing and whose items are not recommended to their users; None or empty where there are none.
    """

    config: Config
    catalogue: Catalogue
    user_ids: IdMap
    user_attributes: Float32
    user_attribute_names: tuple[str, ...]
    log: InteractionLog
    item_embeddings: Float32
    factors: ItemFactors
    covisitation: Covisitation
    ease: Ease
    next_item: NextItem
    counters: Counters
    sequence: SequenceModel | None = None
    encoder: TextEncoder | None = None
    ranker: Ranker | None = None
    sentiment: SentimentHead | None = None
    seen: InteractionLog | None = None

    @property
    def n_rows(self) -> int:
        """Rows of every item array."""
        return len(self.item_embeddings)

    @cached_property
    def item_counts(self) -> npt.NDArray[np.int64]:
        """Interactions of each item that the parts were fitted on, int64 `(n_items,)`."""
        return self.log.item_counts()

    def with_ranker(self, ranker: Ranker) -> "FittedModels":
        """Return the same parts with a ranker."""
        return replace(self, ranker=ranker)

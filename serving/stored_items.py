"""Items of the store, written into the catalogue of one engine."""

import logging
from collections.abc import Sequence

from features.live import LiveItems
from recsys.errors import CatalogueFullError, DataError, EncoderError, RequestError
from serving.attributes import AttributeIndex
from serving.follower import columns_of
from serving.notices import Seldom
from serving.store import StoredItem

logger = logging.getLogger(__name__)


class StoredItems:
    """Takes in items that the store has already. For one thread at a time.

    What does not fit the model is logged and left out. A text that the encoder fails on neither keeps its item out of
    lists nor the item's events from being accepted: it counts as empty until the item is applied again.

    model_text: what log lines call the model.
    """

    def __init__(self, live: LiveItems, attributes: AttributeIndex, model_text: str) -> None:
        self._live = live
        self._attributes = attributes
        self._model_text = model_text
        self._is_worth_logging = Seldom()

    def apply(self, items: Sequence[StoredItem]) -> list[StoredItem]:
        """Add or replace items; return those that were taken in without their text."""
        try:
            self._apply(items)
        except (DataError, RequestError, CatalogueFullError, EncoderError):
            return [item for item in items if not self._apply_alone(item)]
        return []

    def _apply_alone(self, item: StoredItem) -> bool:
        """Take in one item; return False if that was done without its text."""
        try:
            try:
                self._apply([item])
            except EncoderError as error:
                if self._is_worth_logging("unread"):
                    logger.warning("items are taken into %s without their texts for now: %s", self._model_text, error)
                self._apply([item], reads_text=False)
                return False
        except (DataError, RequestError, CatalogueFullError) as error:
            logger.warning("an item of the store is left out of %s: %s", self._model_text, error)
        return True

    def _apply(self, items: Sequence[StoredItem], *, reads_text: bool = True) -> None:
        columns = [columns_of(item) for item in items]
        rows = self._live.apply(self._live.prepare(columns, reads_text=reads_text))
        for row, values in zip(rows.tolist(), columns, strict=True):
            self._attributes.set_row(row, values)

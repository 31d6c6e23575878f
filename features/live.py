"""Items that come, change or go while the models serve."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from features.path import RankingPath
from recsys.catalogue import Catalogue
from recsys.errors import CatalogueFullError
from recsys.ids import UNKNOWN_IDX
from recsys.models.factors import unit_rows

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Prepared:
    """Items ready to be written: described in the catalogue's columns, with float32 embeddings and content factors."""

    described: Catalogue
    embeddings: Float32
    content: Float32


class LiveItems:
    """Writes items into the free rows of a path's models; see `recsys.models.room`.

    A new item has a text, attributes and no behaviour: it stands where an item without behaviour stands after
    training. A changed one keeps its behaviour. Calls take turns; requests in other threads go on meanwhile and see an
    item as it was or as it is, for an instant perhaps half of each.
    """

    def __init__(self, path: RankingPath) -> None:
        self._path = path
        self._writing = threading.Lock()
        # A tokenizer must not be set up in one thread while it works in another.
        self._encoding = threading.Lock()
        self._titles: dict[int, str] = {}  # of rows that are new or were changed
        self._changed: set[int] = set()  # rows of the training whose text is another by now

    @property
    def n_free(self) -> int:
        """Rows that are left for new items."""
        return self._path.models.n_rows - len(self._path.models.catalogue.ids)

    def title_of(self, row: int) -> str:
        """Return the title of an item; its id where it has none."""
        title = self._titles.get(row)
        return self._path.models.catalogue.title_of(row) if title is None else title

    def prepare(self, items: Sequence[Mapping[str, Any]], *, reads_text: bool = True) -> "Prepared":
        """Return items described and embedded, for `apply`; nothing is changed yet.

        items: by column, as in the items table; `item_id` is needed. Ids occur once.
        reads_text: whether to embed texts that are new; where not, they count as empty.

        Raises:
            DataError: a value does not fit its column.
            EncoderError: the text encoder failed.
        """
        models = self._path.models
        described = models.catalogue.like(items, models.config.data.text_fields)
        embeddings = self._embed(described, reads_text=reads_text)
        return Prepared(described, embeddings, self._content(described, embeddings))

    def apply(self, prepared: "Prepared") -> Int32:
        """Add or replace items and return their rows, int32 `(n,)`. They are recommendable when this returns.

        Raises:
            CatalogueFullError: there are not enough free rows for the new ones; nothing was changed.
        """
        described = prepared.described
        with self._writing:
            ids = self._path.models.catalogue.ids
            rows = ids.lookup(described.ids.ids, unknown="mark")
            is_new = rows == UNKNOWN_IDX
            if is_new.sum() > self.n_free:
                first = described.ids.id_of(int(is_new.argmax()))
                raise CatalogueFullError(
                    f"{int(is_new.sum())} new item(s) find no room, the first: {first!r}; {self.n_free} of this model's"
                    f" {self._path.models.n_rows} rows are free: train again with the new items, or give the service "
                    "more room (RECSYS_LIVE_ITEMS)"
                )
            rows[is_new] = len(ids) + np.arange(is_new.sum(), dtype=np.int32)
            self._write(rows, prepared)
            self._titles.update(zip(rows.tolist(), described.titles, strict=True))
            self._path.is_listed[rows] = True
            # Last of all: before this, nobody can name a new row.
            for place in np.flatnonzero(is_new).tolist():
                ids.append(described.ids.id_of(place))
        return rows

    def remove(self, item_ids: Sequence[str]) -> None:
        """Take items out of every list; ids that are not there are left aside. `put` brings them back."""
        with self._writing:
            rows = self._path.models.catalogue.ids.lookup(item_ids, unknown="drop")
            self._path.is_listed[rows] = False

    def _write(self, rows: Int32, prepared: "Prepared") -> None:
        models, items = self._path.models, self._path.items
        described, embeddings, content = prepared.described, prepared.embeddings, prepared.content
        factors, sequence = models.factors, models.sequence
        models.item_embeddings[rows] = embeddings
        factors.content[rows] = content
        is_warm = factors.is_warm[rows]
        cold = rows[~is_warm]
        factors.placed[cold] = factors.content[cold]
        factors.unit_placed[cold] = unit_rows(factors.content[cold])
        if sequence is not None:
            # Those of the training keep what it learned of them beside their text.
            late = rows >= self._path.n_fitted
            sequence.item_vectors[rows[late]] = sequence.place(embeddings[late])
            sequence.item_bias[rows[late]] = sequence.new_item_bias
            sequence.biased_vectors[rows] = np.column_stack([sequence.item_vectors[rows], sequence.item_bias[rows]])
        for place, row in enumerate(rows.tolist()):
            items.values.put(row, described.values[[place]].indices.astype(np.int32))
        items.fill(rows, described, is_warm)
        self._path.indexes.touch(rows)

    def _embed(self, described: Catalogue, *, reads_text: bool) -> Float32:
        """Return the embeddings of the items' texts; what was embedded for the training is not embedded again."""
        models = self._path.models
        embeddings = np.zeros((len(described), models.item_embeddings.shape[1]), np.float32)
        rows = models.catalogue.ids.lookup(described.ids.ids, unknown="mark")
        texts = models.catalogue.texts
        anew = []
        for place, (row, text) in enumerate(zip(rows.tolist(), described.texts, strict=True)):
            if 0 <= row < len(texts) and texts[row] == text and row not in self._changed:
                embeddings[place] = models.item_embeddings[row]
            else:
                anew.append(place)
                if 0 <= row < len(texts):
                    self._changed.add(row)
        if anew and reads_text and models.encoder is not None:
            with self._encoding:
                embeddings[anew] = models.encoder.encode([described.texts[place] for place in anew])
        return embeddings

    def _content(self, described: Catalogue, embeddings: Float32) -> Float32:
        factors = self._path.models.factors
        if factors.content_map is None:
            return np.zeros((len(described), factors.content.shape[1]), np.float32)
        return factors.content_map.predict(described, embeddings)

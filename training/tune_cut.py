"""The data that a search for settings may see: everything that happened before the test, and nothing else."""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from recsys.catalogue import Catalogue
from recsys.config import Config
from recsys.datasets.dataset import Dataset
from recsys.datasets.encoded import EncodedData, encode_dataset, request_rows
from recsys.errors import LeakageError
from recsys.schema import Col
from recsys.splits import Fold, Split, make_split

Bool = npt.NDArray[np.bool_]
Int8 = npt.NDArray[np.int8]


@dataclass(frozen=True)
class PastData:
    """A data set without its test, as tables and as arrays, with the folds that are left."""

    dataset: Dataset
    data: EncodedData
    split: Split

    def fingerprint(self) -> str:
        """Return a SHA-256 over all of it, so that a search is the same one whatever the test holds."""
        digest = hashlib.sha256(self.dataset.fingerprint().encode())
        for array in (self.split.interaction_fold, self.split.request_fold, self.split.boundaries_us):
            digest.update(b"none" if array is None else f"{array.dtype}{array.shape}".encode() + array.tobytes())
        return digest.hexdigest()


def without_test(dataset: Dataset, config: Config) -> PastData:
    """Return a data set without anything that the test fold alone knows.

    Left out are the interactions and requests of the test; users who appear in nothing else; and items that nothing
    before the test speaks of and that came into the catalogue with it: created when the test had begun, or without any
    content, as items are that only a log names. What remains is encoded anew, so it is the same whatever the test
    holds. Only the moments of a split by shares are those of the whole log; `split.test_from` fixes them.
    """
    data = encode_dataset(dataset, config.data)
    split = make_split(data.log, data.impressions, config.split, came_with=request_rows(dataset, data))
    row_fold = np.full(dataset.interactions.height, Fold.TEST, np.int8)  # rows that weigh nothing go with the test
    row_fold[data.log.row] = split.interaction_fold
    interactions = dataset.interactions.filter(pl.Series(row_fold < Fold.TEST))
    impressions, request_fold = None, dict[str, int]()
    if dataset.impressions is not None and data.impressions is not None and split.request_fold is not None:
        request_fold = dict(zip(data.impressions.request_id, split.request_fold.tolist(), strict=True))
        early = [id_ for id_, fold in request_fold.items() if fold < Fold.TEST]
        impressions = dataset.impressions.filter(pl.col(Col.REQUEST_ID).is_in(early))
    feedback = [interactions, *([] if impressions is None else [impressions])]
    known_users = pl.concat([table.select(Col.USER_ID) for table in feedback]).unique()
    known_items = pl.concat([table.select(Col.ITEM_ID) for table in feedback]).unique()
    items = dataset.items.filter(
        pl.col(Col.ITEM_ID).is_in(known_items[Col.ITEM_ID].implode()) | pl.Series(_listed_before(data.catalogue, split))
    )
    users = None if dataset.users is None else dataset.users.join(known_users, on=Col.USER_ID, how="semi")
    past = Dataset(items, interactions, impressions, users, name=dataset.name, format=dataset.format)
    encoded = encode_dataset(past, config.data)
    found = PastData(past, encoded, _same_folds(encoded, row_fold[row_fold < Fold.TEST], request_fold, split))
    check_no_test(found.data, found.split)
    return found


def check_no_test(data: EncodedData, split: Split) -> None:
    """Raise `LeakageError` where data of a search holds the test, or feedback that its split does not speak of."""
    parts = [("interactions", split.interaction_fold, len(data.log))]
    if data.impressions is not None and split.request_fold is not None:
        parts.append(("requests", split.request_fold, len(data.impressions)))
    for what, fold, n in parts:
        if n_test := int((fold == Fold.TEST).sum()):
            raise LeakageError(
                f"{n_test} {what} of the test reached the search for settings, the first at row "
                f"{int(np.flatnonzero(fold == Fold.TEST)[0])}; cut the data with training.tune_cut.without_test"
            )
        if len(fold) != n:
            raise LeakageError(
                f"the split of the search speaks of {len(fold)} {what}, the data holds {n}; cut both together with "
                "training.tune_cut.without_test"
            )


def _same_folds(data: EncodedData, row_fold: Int8, request_fold: dict[str, int], split: Split) -> Split:
    """Return the split of what is left: each row and request keeps the fold that it had."""
    shown = data.impressions
    requests = None if shown is None else np.array([request_fold[id_] for id_ in shown.request_id], np.int8)
    return Split(row_fold[data.log.row], requests, split.boundaries_us)


def _listed_before(catalogue: Catalogue, split: Split) -> Bool:
    """Return which items one could have known of before the test without any feedback, bool `(n_items,)`."""
    has_text = np.array([bool(text.strip()) for text in catalogue.texts], np.bool_)
    has_values = np.diff(catalogue.values.indptr) > 0
    described = has_text | has_values | np.isfinite(catalogue.numeric).any(axis=1)
    if split.boundaries_us is None:
        return described
    return described & (catalogue.created_at_us < split.boundaries_us[-1])

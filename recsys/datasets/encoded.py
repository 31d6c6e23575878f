"""A data set as arrays: ids become row numbers, tables become logs."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import polars as pl

from recsys.catalogue import Catalogue, as_float32
from recsys.config import DataConfig
from recsys.datasets.dataset import Dataset
from recsys.histories import ImpressionLog, InteractionLog
from recsys.ids import IdMap
from recsys.schema import Col


@dataclass(frozen=True)
class EncodedData:
    """The arrays that models are fitted on.

    log: what expresses liking; nothing else may teach it. seen: interactions that say the user knows the item and did
    not like it, complaints; None before the signals of reviews are read (`training.signals`).
    user_attributes: float32 `(n_users, n_attributes)`; numbers as given, strings as codes by falling frequency, NaN
    where missing.
    """

    catalogue: Catalogue
    user_ids: IdMap
    log: InteractionLog
    impressions: ImpressionLog | None
    user_attributes: npt.NDArray[np.float32]
    user_attribute_names: tuple[str, ...]
    seen: InteractionLog | None = None


def encode_dataset(dataset: Dataset, config: DataConfig) -> EncodedData:
    """Return a data set as arrays. Events with a weight of zero or less are left out of the log."""
    catalogue = Catalogue.from_items(dataset.items, config.text_fields)
    user_ids = IdMap(dataset.user_ids())
    attributes, names = _user_attributes(dataset.users, user_ids)
    return EncodedData(
        catalogue,
        user_ids,
        _interaction_log(dataset.interactions, catalogue.ids, user_ids, config.event_weights),
        None
        if dataset.impressions is None or not dataset.impressions.height
        else _impression_log(dataset.impressions, catalogue.ids, user_ids),
        attributes,
        names,
    )


def request_rows(dataset: Dataset, data: EncodedData) -> npt.NDArray[np.int32] | None:
    """Return the request that each row of the log came with, int32 `(len(data.log),)`, -1 for none.

    Rows of `data.impressions`; None where there are no impressions. A click names the list it was made in, and an item
    of a history that came with a list names that list.
    """
    if data.impressions is None or Col.REQUEST_ID not in dataset.interactions.columns:
        return None
    known = pl.DataFrame(
        {"id": data.impressions.request_id, "idx": np.arange(len(data.impressions), dtype=np.int32)},
        schema={"id": pl.String, "idx": pl.Int32},
    )
    named = dataset.interactions.select(pl.col(Col.REQUEST_ID).cast(pl.String).alias("id"))[data.log.row]
    return named.join(known, on="id", how="left", maintain_order="left")["idx"].fill_null(-1).to_numpy()


def _rows(ids: pl.Series, id_map: IdMap) -> npt.NDArray[np.int32]:
    """Translate a column of ids that are all known; a join, since a dict look-up per row is slow."""
    table = pl.DataFrame({"id": list(id_map.ids), "idx": np.arange(len(id_map), dtype=np.int32)})
    joined = pl.DataFrame({"id": ids}).join(table, on="id", how="left", maintain_order="left")
    return joined["idx"].to_numpy().astype(np.int32)


def _interaction_log(
    interactions: pl.DataFrame, item_ids: IdMap, user_ids: IdMap, weights: dict[str, float]
) -> InteractionLog:
    event_weight = interactions[Col.EVENT].replace_strict(
        list(weights), list(weights.values()), default=1.0, return_dtype=pl.Float32
    )
    kept = interactions.filter(event_weight > 0)
    log = InteractionLog.from_arrays(
        _rows(kept[Col.USER_ID], user_ids),
        _rows(kept[Col.ITEM_ID], item_ids),
        kept[Col.TIMESTAMP].dt.epoch("us").to_numpy(),
        event_weight.filter(event_weight > 0).to_numpy(),
        n_users=len(user_ids),
        n_items=len(item_ids),
    )
    return replace(log, row=np.flatnonzero((event_weight > 0).to_numpy())[log.row])


def _impression_log(impressions: pl.DataFrame, item_ids: IdMap, user_ids: IdMap) -> ImpressionLog:
    order = impressions.with_row_index("_order").with_columns(
        pl.col("_order").min().over(Col.REQUEST_ID).alias("_first")
    )
    ordered = order.sort(Col.TIMESTAMP, "_first", "_order")
    starts = np.flatnonzero(ordered[Col.REQUEST_ID].ne_missing(ordered[Col.REQUEST_ID].shift(1)).to_numpy())
    position = (
        ordered[Col.POSITION].fill_null(0).to_numpy().astype(np.int32)
        if Col.POSITION in ordered.columns
        else np.zeros(ordered.height, np.int32)
    )
    firsts = ordered[starts]
    return ImpressionLog(
        firsts[Col.REQUEST_ID].to_list(),
        _rows(firsts[Col.USER_ID], user_ids),
        firsts[Col.TIMESTAMP].dt.epoch("us").to_numpy().astype(np.int64),
        np.append(starts, ordered.height).astype(np.int64),
        _rows(ordered[Col.ITEM_ID], item_ids),
        ordered[Col.CLICKED].to_numpy().astype(np.bool_),
        position,
    )


def _user_attributes(users: pl.DataFrame | None, user_ids: IdMap) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    if users is None:
        return np.empty((len(user_ids), 0), np.float32), ()
    names = [
        name
        for name in users.columns
        if name != Col.USER_ID and (users.schema[name].is_numeric() or users.schema[name] in (pl.String, pl.Boolean))
    ]
    columns = []
    for name in names:
        column = users[name]
        if not column.dtype.is_numeric():
            ranked = column.drop_nulls().value_counts(sort=True, name="n").sort("n", name, descending=[True, False])
            values = ranked[name].to_list()
            column = column.replace_strict(values, list(range(len(values))), default=None, return_dtype=pl.Float32)
        columns.append(column.to_frame().select(as_float32(name)).to_series().to_numpy())
    table = np.full((len(user_ids), len(names)), np.nan, np.float32)
    if names:
        table[_rows(users[Col.USER_ID], user_ids)] = np.stack(columns, axis=1)
    return table, tuple(names)

"""The bundle as an MLflow pyfunc model: MLflow copies this file into the model and runs it when the model is loaded."""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException

DEFAULT_N: Final = 10
OUTPUT_COLUMNS: Final = ("user_id", "rank", "item_id", "score", "title", "row")


class RecsysModel(mlflow.pyfunc.PythonModel):
    """Ranked lists for a table of requests."""

    def load_context(self, context: Any) -> None:
        """Load the bundle that was logged as the artifact `bundle`."""
        import recsys  # here, not above: logging a model runs this file too, and needs none of it

        # The model brings its own copy of the packages, which MLflow has put first on the path. Where recsys is
        # imported already, from elsewhere, its sisters must come from there too: versions are never mixed.
        root = str(Path(recsys.__file__).resolve().parent.parent)
        if sys.path[:1] != [root]:
            sys.path.insert(0, root)
        from recsys.api import load

        self.recommender = load(context.artifacts["bundle"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return one row per recommendation, requests in order, best first.

        Columns: user_id as given, rank from 1, item_id, score, title, and row, the request's row number from 0, which
        tells requests without a user apart.

        Args:
            context: unused. The bundle is loaded by then.
            model_input: one row per request. user_id: string, empty for a visitor who is not known. n: whole number,
                how many items, the parameter `n` where the column is absent. history: item ids, latest last, as a
                list or as a JSON list in a string. One of user_id and history must be there.
            params: `n`, 10 where it is not given, and `diversity`, 0 to 1, 0 where it is not given.

        Raises:
            MlflowException: a column or value cannot be used; it says in which row, and a server answers it with 400.
        """
        from recsys.errors import RecsysError

        if not {"user_id", "history"} & set(model_input.columns):
            raise _bad(f"the input has the columns {list(model_input.columns)[:3]}; give user_id, history, or both")
        default_n = (params or {}).get("n", DEFAULT_N)
        diversity = float((params or {}).get("diversity", 0.0))
        rows: list[tuple[Any, ...]] = []
        for row, request in enumerate(model_input.to_dict("records")):
            user_id = _user_id(request, row)
            n = _n(request, default_n, row)
            history = _history(request, row)
            if user_id is None and not history:
                raise _bad(f"row {row} has neither user_id nor history; give one of them, or both")
            try:
                slate = self.recommender.recommend(user_id, n=n, history=history, diversity=diversity)
            except RecsysError as error:
                raise _bad(f"row {row} cannot be answered: {error}") from error
            rows += [(user_id, entry.rank, entry.item_id, float(entry.score), entry.title, row) for entry in slate]
        types = {"rank": "int64", "score": "float64", "row": "int64"}  # the rest stays object: None becomes null
        return pd.DataFrame(rows, columns=list(OUTPUT_COLUMNS), dtype=object).astype(types)


def _user_id(request: Mapping[str, Any], row: int) -> str | None:
    value = request.get("user_id")
    if _is_missing(value) or value == "":
        return None
    if isinstance(value, float | bool) or not isinstance(value, str | int):
        raise _bad(f"row {row}: user_id is {value!r}; write the id as a string")
    return str(value)


def _n(request: Mapping[str, Any], default: int, row: int) -> int:
    n: Any = default if _is_missing(request.get("n")) else request["n"]
    if isinstance(n, bool) or n != int(n) or n < 1:
        raise _bad(f"row {row}: n is {n!r}; give a whole number of items, at least 1")
    return int(n)


def _history(request: Mapping[str, Any], row: int) -> list[str]:
    value: Any = request.get("history")
    if _is_missing(value) or (isinstance(value, str) and not value.strip()):
        return []
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            value = repr(value)
    elif hasattr(value, "tolist"):  # an array, which is what a list becomes in Parquet
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise _bad(f'row {row}: history is {value}; write a list of item ids, in CSV as JSON: ["i1", "i2"]')
    if odd := [id_ for id_ in value if isinstance(id_, float | bool) or not isinstance(id_, str | int)]:
        raise _bad(f"row {row}: history has {len(odd)} entries that are no item ids, {odd[:3]}; write ids as strings")
    return [str(id_) for id_ in value]


def _is_missing(value: object) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _bad(message: str) -> MlflowException:
    return MlflowException.invalid_parameter_value(message)


mlflow.models.set_model(RecsysModel())

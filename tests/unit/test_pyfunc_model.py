import json
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fastapi.testclient import TestClient
from mlflow.pyfunc import scoring_server

from recsys.config import Config
from recsys.errors import RequestError
from recsys.mlflow_store import MlflowException, mlflow
from training.logged_model import INFERENCE_PACKAGES, signature
from training.tracking import TrainingRun

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class _Entry:
    item_id: str
    score: float
    rank: int
    title: str | None


class _Recommender:
    """Recommends i1, i2, …; the titles tell what it was asked."""

    def recommend(
        self, user_id: str | None = None, n: int = 10, *, history: list[str], diversity: float
    ) -> list[_Entry]:
        if n > 1_000:
            raise RequestError(f"n is {n}; ask for at most 1000", field="n")
        title = None if user_id == "u-untitled" else f"{user_id!r} after {history}"
        title = f"{title}, diversity {diversity}" if diversity else title
        return [_Entry(f"i{rank}", 1.0 / rank, rank, title) for rank in range(1, n + 1)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The logged model, loaded by MLflow, with a stub in place of the engine."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "bundle").mkdir()
    (folder / "bundle" / "manifest.json").write_text("{}", encoding="utf-8")
    loaded: list[str] = []
    api = types.ModuleType("recsys.api")
    api.load = lambda where: loaded.append(where) or _Recommender()  # type: ignore[attr-defined]
    with TrainingRun(Config.from_values({"tracking": {"uri": f"sqlite:///{folder / 'mlflow.db'}"}})) as run:
        run.log_bundle(folder / "bundle")
    stored = run.registry.fetch(run.registry.resolve(), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "recsys.api", api)
        patch.setattr(sys, "path", list(sys.path))  # loading a model puts its code there
        pyfunc = mlflow.pyfunc.load_model(str(stored.parents[1]))
        assert [Path(where) for where in loaded] == [stored]
        # features and serving must come from where recsys was imported from, not from the model's copy
        assert Path(sys.path[0]) == ROOT
        yield pyfunc


def test_the_logged_model_answers_requests(model: Any) -> None:
    answers = model.predict(
        pd.DataFrame({"user_id": ["u7", None], "n": [2, 1], "history": [["i5", "i4"], '["i3"]']}), params={"n": 5}
    )
    assert answers.to_dict("list") == {
        "user_id": ["u7", "u7", None],
        "rank": [1, 2, 1],
        "item_id": ["i1", "i2", "i1"],
        "score": [1.0, 0.5, 1.0],
        "title": ["'u7' after ['i5', 'i4']", "'u7' after ['i5', 'i4']", "None after ['i3']"],
        "row": [0, 0, 1],
    }
    assert list(answers.columns) == [column.name for column in signature().outputs.inputs]
    assert {str(answers[name].dtype) for name in ("rank", "row")} == {"int64"}


def test_n_and_history_may_be_left_out(model: Any) -> None:
    users = pd.DataFrame({"user_id": ["u7", "u8"]})
    assert model.predict(users)["rank"].tolist() == [*range(1, 11), *range(1, 11)]
    assert model.predict(users, params={"n": 1})["title"].tolist() == ["'u7' after []", "'u8' after []"]
    assert model.predict(pd.DataFrame({"history": [["i1"]]}), params={"n": 1})["user_id"].tolist() == [None]
    assert model.predict(users.head(0)).columns.tolist()[0] == "user_id"


def test_diversity_is_a_parameter(model: Any) -> None:
    answer = model.predict(pd.DataFrame({"user_id": ["u7"]}), params={"n": 1, "diversity": 0.25})

    assert answer["title"].tolist() == ["'u7' after [], diversity 0.25"]


@pytest.mark.parametrize(
    ("body", "title"),
    [
        ({"dataframe_records": [{"user_id": "007", "n": 1, "history": ["a", "b"]}]}, "'007' after ['a', 'b']"),
        ({"dataframe_split": {"columns": ["user_id", "n"], "data": [["007", 1]]}}, "'007' after []"),
        ({"dataframe_records": [{"user_id": 7, "n": 1}]}, "'7' after []"),
        ({"dataframe_records": [{"user_id": None, "n": 1, "history": '["a"]'}]}, "None after ['a']"),
        ('user_id,n,history\n007,1,"[""a"", ""b""]"\n', "'007' after ['a', 'b']"),
        ("user_id,n,history\n,1,[]\nu7,1,\n", None),
    ],
)
def test_a_scoring_server_takes_json_and_csv(model: Any, body: Any, title: str | None) -> None:
    kind = "text/csv" if isinstance(body, str) else "application/json"
    content = body if isinstance(body, str) else json.dumps(body)
    answer = TestClient(scoring_server.init(model)).post(
        "/invocations", content=content, headers={"Content-Type": kind}
    )
    if title is None:
        assert (answer.status_code, "row 0 has neither user_id nor history" in answer.text) == (400, True)
    else:
        assert [entry["title"] for entry in answer.json()["predictions"]] == [title]


def test_an_answer_without_user_and_title_is_valid_json(model: Any) -> None:
    for request, missing in (({"history": [["a"]]}, "user_id"), ({"user_id": ["u-untitled"]}, "title")):
        written: list[str] = []
        scoring_server.predictions_to_json(
            model.predict(pd.DataFrame(request), params={"n": 1}), types.SimpleNamespace(write=written.append)
        )
        assert f'"{missing}": null' in "".join(written)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"n": [3]}, r"the input has the columns \['n'\]; give user_id, history, or both"),
        ({"user_id": ["u1", None], "n": [1, 1]}, r"row 1 has neither user_id nor history"),
        ({"user_id": ["u1", ""]}, r"row 1 has neither user_id nor history"),
        ({"user_id": ["u1"], "n": [0]}, r"row 0: n is 0; give a whole number of items, at least 1"),
        ({"user_id": ["u1"], "n": [2_000]}, r"row 0 cannot be answered: n is 2000; ask for at most 1000"),
        (
            {"user_id": ["u1"], "history": ["i1 i2"]},
            r"row 0: history is 'i1 i2'; write a list of item ids, in CSV as JSON",
        ),
        ({"user_id": ["u1"], "history": ["7"]}, r"row 0: history is 7; write a list"),
        (
            {"user_id": ["u1"], "history": [["i1", None, 2.5]]},
            r"history has 2 entries that are no item ids, \[None, 2.5\]",
        ),
        ({"user_id": [True, "u1"]}, r"row 0: user_id is True; write the id as a string"),
    ],
)
def test_bad_requests_are_named_with_their_row(model: Any, columns: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(MlflowException, match=message) as caught:
        model.predict(pd.DataFrame(columns))
    assert caught.value.get_http_status_code() == 400


def test_inference_needs_no_more_than_the_models_requirements() -> None:
    code = f"""
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from packaging.requirements import Requirement

allowed, waiting = set(), list({INFERENCE_PACKAGES!r})
while waiting:
    name = waiting.pop().lower().replace("_", "-")
    if name not in allowed:
        allowed.add(name)
        try:
            found = [Requirement(line) for line in requires(name) or []]
        except PackageNotFoundError:
            continue
        waiting += [r.name for r in found if r.marker is None or r.marker.evaluate({{"extra": ""}})]
owners = packages_distributions()

class Refuse:
    def find_spec(self, name, path=None, target=None):
        packages = {{owner.lower().replace("_", "-") for owner in owners.get(name.partition(".")[0], [])}}
        if packages and not packages & (allowed | {{"recsys-engine"}}):
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Refuse())
import recsys.api, recsys.pyfunc_model
print("answers")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "answers"), done.stderr

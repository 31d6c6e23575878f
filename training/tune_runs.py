"""The trials of a search as nested MLflow runs."""

import time
from collections.abc import Mapping
from typing import Any, Final

from recsys.mlflow_store import MlflowException, connect, mlflow, mlflow_errors, to_mlflow_name
from training.tracking import TrainingRun

_PARENT: Final = "mlflow.parentRunId"


class TrialRuns:
    """Logs each trial as a run within that of the search.

    A search that goes on where another was interrupted takes its trials over, so that one run holds them all.
    """

    def __init__(self, parent: TrainingRun) -> None:
        self._uri = parent.uri
        self._parent_id = parent.run_id
        self._client = connect(parent.uri)
        with mlflow_errors(self._uri, "find the run of the search"):
            self._experiment_id = self._client.get_run(parent.run_id).info.experiment_id

    def log_trial(self, study: str, number: int, settings: Mapping[str, Any], figures: Mapping[str, float]) -> str:
        """Log a trial with its settings as parameters and its figures as metrics; return its run id."""
        now_ms = int(time.time() * 1000)
        tags = {_PARENT: self._parent_id, "tune.study": study, "tune.trial": str(number)}
        tags |= {"mlflow.source.name": "recsys tune", "mlflow.source.type": "LOCAL"}
        with mlflow_errors(self._uri, f"log trial {number} of {study}"):
            run = self._client.create_run(self._experiment_id, tags=tags, run_name=f"{study} {number}")
            self._client.log_batch(
                run.info.run_id,
                metrics=[
                    mlflow.entities.Metric(to_mlflow_name(name), float(value), now_ms, 0)
                    for name, value in figures.items()
                ],
                params=[mlflow.entities.Param(to_mlflow_name(name), str(value)) for name, value in settings.items()],
            )
            self._client.set_terminated(run.info.run_id)
        return str(run.info.run_id)

    def adopt(self, run_id: str) -> bool:
        """Make an earlier trial's run one of this search; return False where the store does not hold it."""
        with mlflow_errors(self._uri, "take over an earlier trial"):
            try:
                if self._client.get_run(run_id).info.lifecycle_stage != "active":
                    return False
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return False
            self._client.set_tag(run_id, _PARENT, self._parent_id)
        return True

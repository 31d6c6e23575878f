"""The pyfunc model that MLflow is given: the code that answers, its requirements, and the place for the bundle."""

import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd

import recsys
from recsys.mlflow_store import mlflow
from recsys.registry import BUNDLE_ARTIFACT

# What answering requests from a bundle needs; training's own libraries are not among them.
INFERENCE_PACKAGES: Final = (
    "alembic",
    "faiss-cpu",
    "lightgbm",
    "mlflow",
    "numba",
    "numpy",
    "onnxruntime",
    "pandas",
    "polars",
    "prometheus-client",
    "psutil",
    "pydantic",
    "pyyaml",
    "safetensors",
    "scipy",
    "sqlalchemy",
    "tokenizers",
)
IMPORT_PACKAGES: Final = ("recsys", "features", "serving", "training")


def save_model(scratch: Path, logged: Any, bundle: Path, example: Mapping[str, Any] | None) -> str:
    """Write the model without the bundle's files to scratch/model, and return the place in it that is the bundle's.

    Args:
        scratch: an empty folder. logged: the MLflow LoggedModel that this becomes. bundle: only its size is taken.
        example: one request, see `TrainingRun.log_bundle`.
    """
    empty = scratch / BUNDLE_ARTIFACT  # MLflow would copy the bundle twice more on its way to the store
    empty.mkdir()
    code = Path(recsys.__file__).parent
    description = mlflow.models.Model(
        artifact_path=logged.artifact_location,
        model_uuid=logged.model_id,
        run_id=logged.source_run_id,
        model_id=logged.model_id,
    )
    request: dict[str, Any] = {"user_id": "u1", "n": 5, "history": []} | dict(example or {})
    request["history"] = json.dumps(list(request["history"]), ensure_ascii=False)
    mlflow.pyfunc.save_model(
        path=str(scratch / "model"),
        python_model=str(code / "pyfunc_model.py"),
        artifacts={BUNDLE_ARTIFACT: str(empty)},
        code_paths=[str(code.parent / package) for package in IMPORT_PACKAGES],
        signature=signature(),
        input_example=pd.DataFrame([request]),
        pip_requirements=[f"{name}=={version}" for name, version in installed_versions(INFERENCE_PACKAGES).items()],
        mlflow_model=description,
    )
    description.model_size_bytes += sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())
    description.save(str(scratch / "model" / "MLmodel"))
    return str(description.flavors["python_function"]["artifacts"][BUNDLE_ARTIFACT]["path"])


def signature() -> Any:
    """Return the MLflow signature of the model; `recsys.pyfunc_model` says what the columns mean."""
    column, schema = mlflow.types.ColSpec, mlflow.types.Schema
    inputs = [
        column("string", "user_id", required=False),
        column("long", "n", required=False),
        column("string", "history", required=False),  # lists pass as they are; CSV has none, so there it is JSON
    ]
    outputs = [("string", "user_id"), ("long", "rank"), ("string", "item_id")]
    outputs += [("double", "score"), ("string", "title"), ("long", "row")]
    specs = [mlflow.types.ParamSpec("n", "long", 10), mlflow.types.ParamSpec("diversity", "double", 0.0)]
    params = mlflow.types.ParamSchema(specs)
    return mlflow.models.ModelSignature(schema(inputs), schema([column(*output) for output in outputs]), params)


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return package → installed version, without those that are not installed."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found

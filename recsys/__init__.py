"""A recommendation engine that understands text.

    import recsys

    dataset = recsys.load_dataset("data/sample")
    result = recsys.train(dataset)
    with recsys.load("models:/recsys@champion") as recommender:
        recommender.recommend("u0001", n=10)

What is named here is imported when it is first used, so that `import recsys` stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recsys.api import Recommender, load
    from recsys.datasets import load_dataset
    from training.train import train

__all__ = ["Recommender", "__version__", "load", "load_dataset", "train"]

_HOMES = {
    "Recommender": "recsys.api",
    "load": "recsys.api",
    "load_dataset": "recsys.datasets",
    "train": "training.train",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("recsys-engine")
    except PackageNotFoundError:
        return "0"

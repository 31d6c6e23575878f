"""`recsys demo`: the whole path on a simulated magazine, down to ranked lists with titles."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from recsys.cli_output import TrackingUri, say
from recsys.cli_serving import open_recommender, say_list, settings_from

if TYPE_CHECKING:
    from recsys.api import Recommender
    from recsys.models.fitted import FittedModels

SAMPLE_SEED: Final = 7
_PRESET: Final = "demo"
_N_SHOWN: Final = 5
_SESSION_LENGTH: Final = 3
_MIN_HISTORY: Final = 8
_VISITOR: Final = "visitor-1"


def demo(
    *,
    folder: Annotated[
        Path, typer.Option("--folder", metavar="FOLDER", help="Where the sample is, or is written.")
    ] = Path("data/sample"),
    tracking_uri: TrackingUri = None,
) -> None:
    """Write a simulated log, train on it, register the model, and print lists for a known and an unknown reader."""
    from recsys.cli_training import say_result
    from recsys.preset_files import parse_overrides, preset
    from training.train import train

    write_sample_once(folder)
    say("training (finished stages are kept, should this be interrupted)")
    result = train(folder, preset(_PRESET), overrides=parse_overrides([], tracking_uri=tracking_uri))
    settings = settings_from(
        alias=result.version, model_name=result.model_name, tracking_uri=result.tracking_uri, store_url="sqlite://"
    )
    with open_recommender(settings) as recommender:
        show_warm_reader(recommender)
        show_visitor(recommender)
    say()
    say_result(result, given_uri=tracking_uri)


def write_sample_once(folder: Path) -> None:
    """Write the sample where there is none, and say so."""
    from recsys.datasets.simulated import SimulationConfig, simulate, write_sample

    if (folder / "interactions.parquet").is_file():
        say(f"sample: {folder} (there already)")
        return
    simulation = simulate(SimulationConfig(), SAMPLE_SEED)
    write_sample(folder, simulation)
    say(f"sample: {simulation.dataset!r} written to {folder}")


def show_warm_reader(recommender: "Recommender") -> None:
    """Print what a reader of usual activity read last, and their list."""
    models = recommender.engine.bundle.models
    user_id = warm_reader(models)
    history = models.log.history_of(models.user_ids.get(user_id)).item_idx.tolist()
    latest = list(dict.fromkeys(reversed(history)))[:_N_SHOWN]  # who likes or comments on an article has read it once
    say()
    say(f"{user_id}, whose clicks the model was trained on, last read:")
    for item in reversed(latest):
        say(f"  - {_described(models, item)}")
    say("and is recommended:")
    say_list(recommender.recommend(user_id, _N_SHOWN))


def show_visitor(recommender: "Recommender") -> None:
    """Print a session of someone unknown, and their list."""
    models = recommender.engine.bundle.models
    session = topical_session(models)
    say()
    say(f"{_VISITOR}, unknown until now, has just read:")
    for item in session:
        say(f"  - {_described(models, item)}")
    say("and is recommended:")
    history = [models.catalogue.ids.id_of(item) for item in session]
    say_list(recommender.recommend(_VISITOR, _N_SHOWN, history=history))


def warm_reader(models: "FittedModels") -> str:
    """Return the first user with at least eight interactions, else the one with the most."""
    lengths = [int(stop - start) for start, stop in zip(models.log.indptr[:-1], models.log.indptr[1:], strict=True)]
    enough = [row for row, length in enumerate(lengths) if length >= _MIN_HISTORY]
    return models.user_ids.id_of(enough[0] if enough else max(range(len(lengths)), key=lengths.__getitem__))


def topical_session(models: "FittedModels") -> list[int]:
    """Return the rows of the three most read items that share the rarest category with enough of them."""
    lists = [names or [] for names in models.catalogue.table["categories"].to_list()]
    sizes = Counter(name for names in lists for name in names)
    large = [name for name, size in sizes.items() if size >= 4 * _SESSION_LENGTH]
    topic = min(large or sizes, key=lambda name: (sizes[name], name))
    rows = [row for row, names in enumerate(lists) if topic in names]
    return sorted(rows, key=lambda row: (-int(models.item_counts[row]), row))[:_SESSION_LENGTH]


def _described(models: "FittedModels", item_idx: int) -> str:
    names = models.catalogue.table["categories"].to_list()[item_idx]
    return models.catalogue.titles[item_idx] + (f" ({', '.join(names)})" if names else "")

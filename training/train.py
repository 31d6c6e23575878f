"""Start a training: `python -m training.train --data FOLDER` for schedulers, `train` for Python and `recsys train`.

Exit codes of the script: 0 when a version was registered, 2 for bad input, 130 when it was interrupted. Progress goes
to standard error; the result is one JSON object on standard output.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from recsys.config import Config
from recsys.datasets import Dataset, format_of
from recsys.datasets.detect import AUTO
from recsys.errors import RecsysError
from recsys.mlflow_store import shown_uri
from recsys.preset_files import choose_config, parse_overrides
from training.pipeline import TrainingResult, train_folder
from training.pipeline import train as train_dataset
from training.progress import Reporter

DEFAULT_RUNS_FOLDER: Final = Path("runs")
INTERRUPTED: Final = "interrupted; the same command goes on from the last finished stage"


def train(
    data: Dataset | Path | str,
    config: Config | Path | str | None = None,
    *,
    format: str = AUTO,
    overrides: Mapping[str, Any] | None = None,
    runs_folder: Path | str = DEFAULT_RUNS_FOLDER,
    quiet: bool = False,
) -> TrainingResult:
    """Train on a data set or a data folder, measure, register a version, and return what was measured.

    An interrupted training leaves its finished stages in `runs_folder`, from where the same call goes on.

    Args:
        data: a loaded data set, the folder of one, or the SQLAlchemy URL of a service's database.
        config: a configuration, the path of a YAML file, or None for the preset that fits the format of the data.
        format: of the folder; `auto` recognises it. A loaded data set has its own.
        overrides: dotted keys such as `encoder.epochs`, and their values.
        runs_folder: where unfinished work is kept.
        quiet: show no progress.

    Raises:
        ConfigError: the configuration cannot be used.
        DataError: the data has faults; nothing was written.
        RegistryError: MLflow's store cannot be reached.
        EncoderError: the text encoder cannot be found or trained.
    """
    if isinstance(data, Dataset):
        chosen = choose_config(config, data.format, overrides)
        return train_dataset(data, chosen, runs_folder=Path(runs_folder), reporter=Reporter(quiet=quiet))
    name = format_of(data, format)
    chosen = choose_config(config, name, overrides)
    return train_folder(data, chosen, data_format=name, runs_folder=Path(runs_folder), quiet=quiet)


def result_values(result: TrainingResult) -> dict[str, Any]:
    """Return a training's result as JSON values; a password in the tracking URI is left out."""
    return {
        "model": result.model_name,
        "version": result.version,
        "run_id": result.run_id,
        "tracking_uri": shown_uri(result.tracking_uri),
        "seconds": round(result.seconds, 1),
        "peak_rss_mb": round(result.peak_rss_mb, 1),
        "stages": {name: round(seconds, 1) for name, seconds in result.stages.items()},
        "report": result.report.to_dict(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        result = train(
            options.data,
            options.config,
            format=options.format,
            overrides=parse_overrides(options.settings, tracking_uri=options.tracking_uri),
            runs_folder=options.runs_folder,
            quiet=options.quiet,
        )
    except RecsysError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"{INTERRUPTED}\n")
        return 130
    sys.stdout.write(json.dumps(result_values(result), ensure_ascii=False) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.train",
        description="Train on a data folder and register a version; the result is one JSON object.",
        epilog="Example: python -m training.train --data data/sample --config configs/demo.yaml",
    )
    parser.add_argument("--data", required=True, help="folder of the data, or the URL of a service's database")
    parser.add_argument("--config", help="configuration file; left out, the preset that fits the data's format")
    parser.add_argument("--format", default=AUTO, help="format of the data (default: recognise it)")
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="set one value; repeatable"
    )
    parser.add_argument("--runs-folder", default=DEFAULT_RUNS_FOLDER, help="where unfinished work is kept")
    parser.add_argument("--tracking-uri", help="MLflow tracking URI (default: the configuration's)")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    return parser


if __name__ == "__main__":
    sys.exit(main())

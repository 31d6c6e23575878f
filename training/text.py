"""The text stage of a training: fine-tune the encoder on the past, then embed the whole catalogue."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from recsys.config import Config
from recsys.datasets.encoded import EncodedData
from recsys.models.encoder import TextEncoder
from recsys.schema import Col
from recsys.splits import Fold, Split
from training.desk import Desk, seed_for
from training.encoder import EncoderTexts, fit_text_encoder
from training.encoder_choices import ChoiceSource
from training.encoder_objectives import ExampleSource, PairSource
from training.pairs import EncoderPairs, build_pairs
from training.progress import Advance, how_it_ended
from training.work import stage_key

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

_NOTHING: Final = np.empty(0, np.int32)
# Share of the past that is kept back to tell the encoder when to stop.
_HELD_OUT_SHARE: Final = 0.1
_MAX_HELD_OUT_PAIRS: Final = 1_000
_EMBED_CHUNK: Final = 1_024
_REPORTED: Final = ("kind", "base", "curve", "seconds", "stopped_because")


@dataclass(frozen=True)
class TextStage:
    """A fitted encoder, the catalogue's embeddings `(n_items, embedding_size)`, and what the fitting says of itself.

    encoder, folder: None where there is no text to read; every embedding is then zero, and as short as can be.
    """

    encoder: TextEncoder | None
    folder: Path | None
    embeddings: Float32
    report: dict[str, Any]

    @staticmethod
    def without_text(n_items: int) -> "TextStage":
        """Return the stage of a catalogue in which no item has any text."""
        report = {"kind": "none", "base": "", "curve": [], "seconds": 0.0, "stopped_because": "no text"}
        return TextStage(None, None, np.zeros((n_items, 1), np.float32), report)


def encoder_pairs(
    data: EncodedData,
    split: Split,
    config: Config,
    seed: np.random.SeedSequence,
    *,
    visible: Bool | None = None,
    hidden_idx: Int32 = _NOTHING,
) -> PairSource:
    """Return pairs to train on and pairs to stop by, both from what is known before the ranker's labels.

    With a time split the newest tenth of the past is held out; with leave_last, where the past has no common end, a
    tenth of the users. visible: bool `(len(log),)`, interactions that may be used at all. hidden_idx: int32, items
    of which nothing may be used, neither interactions nor that they were shown.
    """
    log = data.log.select(_usable(data, split, visible, hidden_idx))
    impressions = None if data.impressions is None else data.impressions.without_items(hidden_idx)
    user_seed, valid_seed = seed.spawn(2)
    train_requests: Bool | None = None
    held_out_requests: Bool | None = None
    if split.boundaries_us is None:
        held_out = (np.random.default_rng(user_seed).random(log.n_users) < _HELD_OUT_SHARE)[log.user_idx]
    else:
        edge = np.quantile(log.timestamp_us, 1.0 - _HELD_OUT_SHARE) if len(log) else 0
        held_out = log.timestamp_us >= edge
        if impressions is not None and split.request_fold is not None:
            past_requests = split.request_fold < Fold.LABEL
            held_out_requests = past_requests & (impressions.timestamp_us >= edge)
            train_requests = past_requests & (impressions.timestamp_us < edge)

    def train(rng: np.random.Generator) -> EncoderPairs:
        return build_pairs(
            log, impressions, config.encoder, rng, positive_rows=~held_out, positive_requests=train_requests
        )

    valid = build_pairs(
        log,
        impressions,
        config.encoder.model_copy(update={"max_pairs": _MAX_HELD_OUT_PAIRS}),
        np.random.default_rng(valid_seed),
        positive_rows=held_out,
        positive_requests=held_out_requests,
    )
    return PairSource(train, valid)


def encoder_source(
    data: EncodedData,
    split: Split,
    config: Config,
    seed: np.random.SeedSequence,
    *,
    visible: Bool | None = None,
    hidden_idx: Int32 = _NOTHING,
) -> ExampleSource:
    """Return what the encoder is to learn from, as `encoder.objective` says; see `encoder_pairs`."""
    if _objective(data, config) == "contrastive":
        return encoder_pairs(data, split, config, seed, visible=visible, hidden_idx=hidden_idx)
    log = data.log.select(_usable(data, split, visible, hidden_idx))
    return ChoiceSource(log, config.collaborative, seed)


def _usable(data: EncodedData, split: Split, visible: Bool | None, hidden_idx: Int32) -> Bool:
    """Return which interactions may teach the encoder, bool `(len(log),)`."""
    past = split.known_before(Fold.LABEL) & ~np.isin(data.log.item_idx, hidden_idx)
    return past if visible is None else past & visible


def _objective(data: EncodedData, config: Config) -> str:
    if config.encoder.objective != "auto":
        return config.encoder.objective
    return "choices" if data.impressions is None else "contrastive"


def local_base(folder: Path) -> list[tuple[str, int, int]] | None:
    """Return which files a local base encoder has, with size and time: other weights in it are another encoder."""
    if not folder.is_dir():
        return None
    stats = {str(path.relative_to(folder)): path.stat() for path in sorted(folder.rglob("*")) if path.is_file()}
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()]


def run_text_stage(
    data: EncodedData,
    split: Split,
    config: Config,
    desk: Desk,
    key: str,
    *,
    visible: Bool | None = None,
    hidden_idx: Int32 = _NOTHING,
) -> TextStage:
    """Return the text stage's result, kept from before where the work folder has it for the same inputs.

    key: hash of the data and of what else is particular to the caller; the configuration is added here. visible,
    hidden_idx: see `encoder_pairs`.
    """
    read = {"seed", "data", "split", "encoder"}
    if _objective(data, config) == "choices":
        read.add("collaborative")
    sections = config.model_dump(mode="json", include=read)
    n_hidden = 0 if visible is None else int((~visible).sum())
    base = local_base(Path(config.encoder.model).expanduser())
    stage, stage_id = "encoder", stage_key(key, sections, n_hidden, hidden_idx.tolist(), base)
    folder = desk.work.folder / stage
    if not desk.work.is_finished(stage, stage_id):
        seed = seed_for(config.seed, "encoder")
        source_seed, fit_seed = seed.spawn(2)
        source = encoder_source(data, split, config, source_seed, visible=visible, hidden_idx=hidden_idx)
        table = data.catalogue.table
        texts = EncoderTexts(data.catalogue.texts, _column(table, Col.TITLE), _column(table, Col.DESCRIPTION))
        with desk.work.writing(stage, stage_id) as folder:
            fit = desk.run(
                "text encoder",
                lambda advance: fit_text_encoder(
                    texts,
                    source,
                    config.encoder,
                    fit_seed,
                    folder / "model",
                    on_progress=lambda step, total, loss: advance(step, total, f"loss {loss:.3f}"),
                ),
            )
            report = {name: getattr(fit, name) for name in _REPORTED}
            (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    else:
        desk.reporter.say("  text encoder: kept from before")
    encoder = TextEncoder.load(folder / "model")
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    ended = report["stopped_because"]
    desk.reporter.say(how_it_ended("text encoder", ended, "encoder.max_train_seconds", time_was_short=ended == "time"))
    return TextStage(encoder, folder / "model", _embeddings(data.catalogue.texts, encoder, desk), report)


def _embeddings(texts: Sequence[str], encoder: TextEncoder, desk: Desk) -> Float32:
    stage_id = stage_key(encoder.fingerprint, list(texts))
    work, stage = (desk.work, "embeddings") if desk.embeddings is None else (desk.embeddings, stage_id[:16])
    file = work.folder / stage / "embeddings.npy"
    if work.is_finished(stage, stage_id):
        desk.reporter.say("  item embeddings: kept from before")
        return np.load(file, allow_pickle=False)

    def embed(advance: Advance) -> Float32:
        parts = []
        for start in range(0, len(texts), _EMBED_CHUNK):
            parts.append(encoder.encode(texts[start : start + _EMBED_CHUNK]))
            advance(min(start + _EMBED_CHUNK, len(texts)), len(texts))
        return np.concatenate(parts)

    embeddings = desk.run("item embeddings", embed)
    with work.writing(stage, stage_id):
        np.save(file, embeddings, allow_pickle=False)
    return embeddings


def _column(table: pl.DataFrame, name: str) -> list[str]:
    return table[name].fill_null("").to_list() if name in table.columns else [""] * table.height

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import write_toy_encoder

import recsys.bundle
from features.path import RankingPath
from recsys.bundle import MANIFEST, SCHEMA_VERSION, Bundle, load_bundle, read_manifest, write_bundle
from recsys.errors import BundleError, RecsysError
from recsys.histories import Request
from recsys.models.fitted import FittedModels
from recsys.models.sentiment import RatingScale, SentimentHead

FILES = (
    "arrays.safetensors",
    "counters.npz",
    "content_map.npz",
    "covisitation.npz",
    "ease.npz",
    "encoder/encoder.json",
    "encoder/model.onnx",
    "encoder/tokenizer.json",
    "items.parquet",
    "log.npz",
    "next_item.npz",
    "ranker.txt",
    "sequence/sequence.npz",
    "sequence/sequence.onnx",
    "users.parquet",
)


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that may be changed."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def loaded(tiny_bundle: Path) -> Bundle:
    return load_bundle(tiny_bundle)


def _rewrite_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest as somebody would who recomputes every hash."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    for path in folder.rglob("*"):
        if path.is_file() and path.name != MANIFEST:
            name = path.relative_to(folder).as_posix()
            manifest["files"][name] = hashlib.sha256(path.read_bytes()).hexdigest()
    change(manifest)
    rest = {key: value for key, value in manifest.items() if key != "bundle_id"}
    manifest["bundle_id"] = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def test_a_bundle_holds_the_files_it_should(tiny_bundle: Path) -> None:
    found = {path.relative_to(tiny_bundle).as_posix() for path in tiny_bundle.rglob("*") if path.is_file()}

    assert found == {*FILES, MANIFEST}
    assert set(read_manifest(tiny_bundle).files) == set(FILES)


def test_the_manifest_says_what_the_bundle_is(tiny_bundle: Path, tiny_models: FittedModels) -> None:
    manifest = read_manifest(tiny_bundle)

    assert manifest.schema_version == SCHEMA_VERSION
    assert len(manifest.bundle_id) == 64
    assert manifest.config == tiny_models.config
    assert manifest.data == {"name": "simulated", "format": "tables", "items": 150}
    assert manifest.data_until_us == tiny_models.log.timestamp_us.max()
    assert manifest.metrics == {"auc": 0.625}
    assert tiny_models.encoder is not None
    assert manifest.encoder_fingerprint == tiny_models.encoder.fingerprint
    assert tiny_models.ranker is not None
    assert manifest.feature_names == tiny_models.ranker.feature_names
    assert manifest.versions.keys() == {"python", "lightgbm", "numpy"}


def _requests(models: FittedModels) -> Iterator[Request]:
    as_of = int(models.log.timestamp_us.max()) + 3_600_000_000
    for user in (0, 17, 60):
        yield Request(models.log.history_of(user), as_of, user)
        yield Request(models.log.history_of(user), as_of, user, np.array([5, 149, 0, 31], np.int32))
    yield Request(models.log.history_of(3, as_of - 10 * 86_400_000_000), as_of - 86_400_000_000)


def test_a_loaded_bundle_scores_bit_for_bit_as_before(loaded: Bundle, tiny_models: FittedModels) -> None:
    before, after = RankingPath(tiny_models), RankingPath(loaded.models)

    assert before.feature_names == after.feature_names
    for request in _requests(tiny_models):
        one, other = before.rank(request), after.rank(request)
        assert len(one.item_idx) > 1
        assert one.item_idx.tolist() == other.item_idx.tolist()
        for name in ("score", "features", "sources"):
            assert getattr(one, name).tobytes() == getattr(other, name).tobytes()


def test_every_array_comes_back_bit_for_bit(loaded: Bundle, tiny_models: FittedModels) -> None:
    def arrays(models: FittedModels) -> dict[str, np.ndarray]:
        log, counters = models.log, models.counters
        named = {
            "embeddings": models.item_embeddings,
            "own": models.factors.own,
            "content": models.factors.content,
            "warm": models.factors.is_warm,
            "user_attributes": models.user_attributes,
            "transitions": models.covisitation.transitions.data,
            "transition_columns": models.covisitation.transitions.indices,
            "values": models.catalogue.values.toarray(),
            "numeric": models.catalogue.numeric,
            "created": models.catalogue.created_at_us,
        }
        named |= {name: getattr(log, name) for name in ("user_idx", "item_idx", "timestamp_us", "weight", "row")}
        for kind in ("interactions", "shown", "clicked"):
            named |= {f"{kind}_{part}": getattr(getattr(counters, kind), part) for part in ("key", "cumulative")}
        return named

    before, after = arrays(tiny_models), arrays(loaded.models)
    for name, array in before.items():
        assert array.dtype == after[name].dtype, name
        assert array.tobytes() == after[name].tobytes(), name


def test_everything_else_comes_back_too(loaded: Bundle, tiny_models: FittedModels) -> None:
    models = loaded.models

    assert models.catalogue.ids == tiny_models.catalogue.ids
    assert list(models.catalogue.texts) == list(tiny_models.catalogue.texts)
    assert models.user_ids == tiny_models.user_ids
    assert models.user_attribute_names == tiny_models.user_attribute_names == ("country", "device")
    assert (models.factors.alpha, models.factors.regularization) == (
        tiny_models.factors.alpha,
        tiny_models.factors.regularization,
    )
    assert models.covisitation.history_decay == tiny_models.covisitation.history_decay
    assert models.encoder is not None
    np.testing.assert_array_equal(
        models.encoder.encode(tiny_models.catalogue.texts[:5]), tiny_models.item_embeddings[:5]
    )


def test_a_bundle_without_encoder_attributes_or_behaviour_comes_back(tiny_models: FittedModels, tmp_path: Path) -> None:
    nobody = tiny_models.log.select(np.zeros(len(tiny_models.log), np.bool_))
    plain = replace(
        tiny_models,
        encoder=None,
        user_attributes=np.empty((len(tiny_models.user_ids), 0), np.float32),
        user_attribute_names=(),
        log=nobody,
    )
    manifest = write_bundle(plain, None, tmp_path / "bundle", data={}, metrics={"auc": float("nan"), "mrr": 0.5})
    models = load_bundle(tmp_path / "bundle").models

    assert models.encoder is None
    assert models.user_attributes.shape == (80, 0)
    assert len(models.log) == 0
    assert manifest.data_until_us == 0
    assert manifest.encoder_fingerprint is None
    assert manifest.metrics == {"mrr": 0.5}
    assert read_manifest(tmp_path / "bundle") == manifest


@pytest.mark.parametrize("place", [0.0, 0.3, 0.999])
@pytest.mark.parametrize("name", FILES)
def test_one_changed_byte_is_found_and_the_file_named(copy: Path, name: str, place: float) -> None:
    content = bytearray((copy / name).read_bytes())
    content[int(place * len(content))] ^= 1
    (copy / name).write_bytes(content)

    with pytest.raises(BundleError, match=rf"bundle: {name} was changed after the bundle was written; fetch"):
        load_bundle(copy)


def test_no_changed_byte_of_the_manifest_gets_through(copy: Path) -> None:
    original = (copy / MANIFEST).read_bytes()
    for place in range(0, len(original), 29):
        for bit in (1, 128):
            content = bytearray(original)
            content[place] ^= bit
            (copy / MANIFEST).write_bytes(content)
            if bytes(content).split() == original.split():
                continue  # white space for white space says the same
            with pytest.raises(BundleError, match=r"manifest\.json (was changed|is damaged)|has layout \d"):
                read_manifest(copy)


def test_a_changed_figure_in_the_manifest_is_found(copy: Path) -> None:
    text = (copy / MANIFEST).read_text(encoding="utf-8")
    (copy / MANIFEST).write_text(text.replace("0.625", "0.925"), encoding="utf-8")

    with pytest.raises(BundleError, match=r"manifest\.json was changed after the bundle was written"):
        load_bundle(copy)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()

    with pytest.raises(BundleError, match=rf"{name} is missing \(1 file\(s\)\); fetch the bundle again"):
        load_bundle(copy)


@pytest.mark.parametrize("name", ["extra.txt", ".hidden", "encoder/more.bin"])
def test_a_file_that_does_not_belong_is_named(copy: Path, name: str) -> None:
    (copy / name).write_bytes(b"")

    with pytest.raises(BundleError, match=rf"{name} does not belong to the bundle"):
        load_bundle(copy)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"null",
        b"{}",
        b'{"schema_version": %d}' % SCHEMA_VERSION,
        b'{"schema_version": %d, "\xff": 1}' % SCHEMA_VERSION,
        b"\x00\x01",
    ],
)
def test_a_damaged_manifest_is_said_to_be_damaged(copy: Path, content: bytes) -> None:
    (copy / MANIFEST).write_bytes(content)

    with pytest.raises(BundleError, match=r"manifest\.json is damaged \(\w+\); fetch the bundle again"):
        load_bundle(copy)


def test_a_folder_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is no bundle: manifest\.json cannot be read \(No such file"):
        load_bundle(tmp_path / "nothing")


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1, str(SCHEMA_VERSION)])
def test_another_layout_is_refused_whatever_else_is_in_it(copy: Path, version: object) -> None:
    (copy / MANIFEST).write_text(json.dumps({"schema_version": version, "unheard_of": 1}), encoding="utf-8")

    with pytest.raises(
        BundleError, match=rf"has layout {version}, this version reads {SCHEMA_VERSION}; train again or use a matching"
    ):
        load_bundle(copy)


def test_an_encoder_that_did_not_make_the_embeddings_is_refused_even_with_right_hashes(
    copy: Path, tiny_models: FittedModels
) -> None:
    shutil.rmtree(copy / "encoder")
    write_toy_encoder(copy / "encoder", tiny_models.catalogue.texts, seed=99)
    _rewrite_manifest(copy, lambda manifest: None)

    message = (
        r"item embeddings were made by encoder [0-9a-f]{12}, but the bundle holds encoder [0-9a-f]{12}; embeddings"
    )
    with pytest.raises(BundleError, match=message):
        load_bundle(copy)


def test_claiming_the_other_encoder_in_the_manifest_does_not_help(copy: Path, tiny_models: FittedModels) -> None:
    shutil.rmtree(copy / "encoder")
    folder = write_toy_encoder(copy / "encoder", tiny_models.catalogue.texts, seed=99)
    fingerprint = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))["fingerprint"]
    _rewrite_manifest(copy, lambda manifest: manifest.update(encoder_fingerprint=fingerprint))

    with pytest.raises(BundleError, match="item embeddings were made by encoder"):
        load_bundle(copy)


def test_an_encoder_taken_out_is_refused_even_with_right_hashes(copy: Path) -> None:
    shutil.rmtree(copy / "encoder")
    _rewrite_manifest(
        copy,
        lambda manifest: manifest.update(
            files={name: value for name, value in manifest["files"].items() if not name.startswith("encoder/")}
        ),
    )

    with pytest.raises(BundleError, match="but the bundle holds encoder None"):
        load_bundle(copy)


def test_half_an_encoder_is_refused_even_with_right_hashes(copy: Path) -> None:
    text = (copy / "encoder" / "encoder.json").read_text(encoding="utf-8")
    (copy / "encoder" / "encoder.json").write_text(text.replace('"hashed words"', '"other words"'), encoding="utf-8")
    _rewrite_manifest(copy, lambda manifest: None)

    with pytest.raises(RecsysError, match=r"the text encoder in .* has changed since it was written"):
        load_bundle(copy)


@pytest.mark.parametrize("name", ["arrays.safetensors", "counters.npz", "covisitation.npz", "items.parquet", "log.npz"])
def test_a_file_that_was_broken_before_it_was_hashed_is_refused(copy: Path, name: str) -> None:
    (copy / name).write_bytes((copy / name).read_bytes()[:40])
    _rewrite_manifest(copy, lambda manifest: None)

    with pytest.raises(BundleError, match="a file of the bundle cannot be read"):
        load_bundle(copy)


def test_a_bundle_of_other_features_is_refused_even_with_right_hashes(copy: Path) -> None:
    _rewrite_manifest(copy, lambda manifest: manifest.update(feature_names=manifest["feature_names"][::-1]))

    with pytest.raises(BundleError, match=r"ranker\.txt was trained on other features"):
        load_bundle(copy)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_exists_is_never_overwritten(tiny_models: FittedModels, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "bundle"
    target.mkdir() if kind == "folder" else target.write_text("mine", encoding="utf-8")

    with pytest.raises(BundleError, match="exists; a bundle is never overwritten, name a new folder"):
        write_bundle(tiny_models, None, target, data={}, metrics={})
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_models_without_a_ranker_are_no_bundle(tiny_models: FittedModels, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="these models have no ranker; train one before writing a bundle"):
        write_bundle(replace(tiny_models, ranker=None), None, tmp_path / "bundle", data={}, metrics={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("step", ["_save_npz", "_sha256", "_fsync", "git_commit"])
def test_an_interrupted_write_leaves_nothing(
    tiny_models: FittedModels,
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    interrupt: type[BaseException],
) -> None:
    original, calls = getattr(recsys.bundle, step), []

    def stop_at_last(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if step == "git_commit" or len(calls) == 2:
            raise interrupt("stopped")
        return original(*args, **kwargs)

    monkeypatch.setattr(recsys.bundle, step, stop_at_last)
    with pytest.raises(interrupt, match="stopped"):
        write_bundle(tiny_models, tiny_encoder, tmp_path / "bundle", data={}, metrics={})
    assert list(tmp_path.iterdir()) == []


def test_missing_parent_folders_are_made(tiny_models: FittedModels, tmp_path: Path) -> None:
    write_bundle(replace(tiny_models, encoder=None), None, tmp_path / "a" / "b", data={}, metrics={})

    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert read_manifest(tmp_path / "a" / "b").schema_version == SCHEMA_VERSION


def _with_reviews(models: FittedModels) -> FittedModels:
    """Return the models with a sentiment head, and with two interactions of the log's as complaints."""
    assert models.encoder is not None
    weights = np.linspace(-1.0, 2.0, models.encoder.embedding_size, dtype=np.float32)
    head = SentimentHead(weights, 0.25, RatingScale(1.0, 5.0), models.encoder.fingerprint, complaint_cost=3.0)
    chosen = np.zeros(len(models.log), np.bool_)
    chosen[[3, 41]] = True
    seen = models.log.select(chosen)
    later = replace(seen, timestamp_us=seen.timestamp_us + 10**12)
    return replace(models, sentiment=head, seen=later)


def test_the_sentiment_head_and_the_complaints_come_back(
    tiny_models: FittedModels, tiny_encoder: Path, tmp_path: Path
) -> None:
    models = _with_reviews(tiny_models)
    assert models.sentiment is not None
    assert models.seen is not None

    manifest = write_bundle(models, tiny_encoder, tmp_path / "bundle", data={}, metrics={})
    found = load_bundle(tmp_path / "bundle").models

    assert set(manifest.files) >= {"sentiment.npz", "seen.npz"}
    assert found.sentiment is not None
    assert found.sentiment.weights.tobytes() == models.sentiment.weights.tobytes()
    assert replace(found.sentiment, weights=models.sentiment.weights) == models.sentiment
    assert found.seen is not None
    for name in ("user_idx", "item_idx", "timestamp_us", "weight", "row"):
        assert getattr(found.seen, name).tobytes() == getattr(models.seen, name).tobytes(), name
    assert (found.seen.n_users, found.seen.n_items) == (80, 150)
    assert len(found.log) == len(tiny_models.log)
    # A complaint is feedback, too: what comes after it is newer than the training.
    assert manifest.data_until_us == models.seen.timestamp_us.max() > tiny_models.log.timestamp_us.max()


def test_a_bundle_without_them_has_neither(loaded: Bundle) -> None:
    assert loaded.models.sentiment is None
    assert loaded.models.seen is None


def test_a_sentiment_head_of_another_encoder_is_not_written(tiny_models: FittedModels, tmp_path: Path) -> None:
    models = _with_reviews(tiny_models)
    assert models.sentiment is not None
    foreign = replace(models, sentiment=replace(models.sentiment, encoder_fingerprint="f00d" * 16))

    for each in (foreign, replace(models, encoder=None)):
        with pytest.raises(
            BundleError, match=r"the sentiment head reads embeddings of encoder \w{12}, these models hold"
        ):
            write_bundle(each, None, tmp_path / "bundle", data={}, metrics={})
    assert list(tmp_path.iterdir()) == []


def test_a_sentiment_head_that_does_not_fit_is_refused_even_with_right_hashes(copy: Path) -> None:
    head = SentimentHead(np.ones(24, np.float32), 0.0, RatingScale(1.0, 5.0), "f00d" * 16)
    head.save(copy / "sentiment.npz")
    _rewrite_manifest(copy, lambda manifest: None)

    with pytest.raises(RecsysError, match="the sentiment head reads embeddings of encoder f00df00df00d, not of"):
        load_bundle(copy)


def test_a_broken_sentiment_head_is_refused_even_with_right_hashes(copy: Path) -> None:
    (copy / "sentiment.npz").write_bytes(b"PK\x03\x04 and no more")
    _rewrite_manifest(copy, lambda manifest: None)

    with pytest.raises(RecsysError, match=r"sentiment\.npz: the sentiment head cannot be read"):
        load_bundle(copy)


def test_a_sentiment_head_without_any_encoder_is_refused(tiny_models: FittedModels, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    write_bundle(replace(tiny_models, encoder=None), None, folder, data={}, metrics={})
    SentimentHead(np.ones(24, np.float32), 0.0, RatingScale(1.0, 5.0), "f00d" * 16).save(folder / "sentiment.npz")
    _rewrite_manifest(folder, lambda manifest: None)

    with pytest.raises(BundleError, match=r"sentiment\.npz has no encoder beside it"):
        load_bundle(folder)

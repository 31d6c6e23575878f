"""What every reader must do, run against each one in the registry on a small folder of its format."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from recsys.config import DataConfig
from recsys.datasets import Dataset, FaultLog, load_dataset, validate_folder
from recsys.datasets.detect import LOOKED_FOR, READERS, detect_format
from recsys.datasets.raw import FILE, ROW, RawTables, Reader
from recsys.errors import DataError
from recsys.schema import IMPRESSIONS, INTERACTIONS, ITEMS, TABLES, USERS, Col

# Three items, two users and at least three interactions each; the second file of each sample is the behaviour.
SAMPLES: dict[str, dict[str, str]] = {
    "tables": {
        "items.csv": "item_id,title,description\ni1,Socks,Warm\ni2,Hats,Wide\ni3,Shoes,Red\n",
        "interactions.csv": (
            "user_id,item_id,timestamp,event\nu1,i1,2024-03-01T10:00:00Z,view\nu1,i2,2024-03-01T11:00:00Z,view\n"
            "u2,i3,2024-03-02T10:00:00Z,purchase\n"
        ),
        "users.csv": "user_id,age\nu1,31\nu2,44\n",
    },
    "movielens": {
        "movies.dat": "1::Toy Story (1995)::Animation|Comedy\n2::Heat (1995)::Crime\n3::Sabrina (1995)::Comedy\n",
        "ratings.dat": "1::1::5::978300760\n1::2::3::978302109\n2::3::4::978301968\n",
        "users.dat": "1::F::1::10::48067\n2::M::56::16::70072\n",
    },
    "mind": {
        "news.tsv": "".join(
            f"N{i}\tsports\tgolf\tTitle {word}\tAbstract {word}\thttps://example.org/{i}\t[]\t[]\n"
            for i, word in enumerate(("one", "two", "three"), start=1)
        ),
        "behaviors.tsv": (
            "1\tU1\t11/12/2019 2:14:46 PM\tN1\tN2-1 N3-0\n2\tU2\t11/13/2019 5:53:12 AM\tN2 N1\tN3-1 N1-0\n"
        ),
    },
    "recbole": {
        "toy.item": (
            "item_id:token\tmovie_title:token_seq\tclass:token_seq\n1\tToy Story\tComedy\n2\tHeat\tCrime\n"
            "3\tSabrina\tComedy\n"
        ),
        "toy.inter": (
            "user_id:token\titem_id:token\trating:float\ttimestamp:float\n7\t1\t3\t881250949\n7\t2\t4\t881250950\n"
            "9\t3\t5\t881250951\n"
        ),
        "toy.user": "user_id:token\tage:token\n7\t24\n9\t53\n",
    },
    "amazon": {
        "meta_Toys.json": "".join(
            f'{{"asin": "B{i}", "title": "{word}", "description": ["A <b>{word}</b>"], "category": ["Toys"]}}\n'
            for i, word in enumerate(("Kite", "Ball", "Doll"), start=1)
        ),
        "Toys_5.json": "".join(
            f'{{"overall": {stars}.0, "reviewerID": "{user}", "asin": "B{i}", "reviewText": "Nice", '
            f'"summary": "Good", "unixReviewTime": {1529193600 + i}}}\n'
            for user, i, stars in (("A1", 1, 5), ("A1", 2, 4), ("A2", 3, 2))
        ),
    },
    "metarank": {
        "items.jsonl": "".join(
            f'{{"event": "item", "id": "e{i}", "item": "m{i}", "timestamp": "1599391467000", '
            f'"fields": [{{"name": "title", "value": "{word}"}}]}}\n'
            for i, word in enumerate(("Alien", "Brazil", "Casino"), start=1)
        ),
        "events.jsonl": "".join(
            f'{{"event": "ranking", "id": "r{i}", "timestamp": "{1599391467000 + i}", "user": "u{i % 2}", '
            f'"session": "s{i}", "fields": [], "items": [{{"id": "m{i}"}}, {{"id": "m{i % 3 + 1}"}}]}}\n'
            f'{{"event": "interaction", "id": "c{i}", "ranking": "r{i}", "timestamp": "{1599391468000 + i}", '
            f'"user": "u{i % 2}", "session": "s{i}", "type": "click", "item": "m{i}", "fields": []}}\n'
            for i in (1, 2, 3)
        ),
    },
    "gorse": {
        "items.jsonl": "".join(
            f'{{"ItemId": "g{i}", "IsHidden": false, "Categories": ["shop"], "Timestamp": "2023-01-0{i}T00:00:00Z", '
            f'"Labels": {{}}, "Comment": "{word}"}}\n'
            for i, word in enumerate(("Tea", "Coffee", "Cocoa"), start=1)
        ),
        "feedback.jsonl": "".join(
            f'{{"FeedbackType": "{kind}", "UserId": "{user}", "ItemId": "g{i}", "Value": 0, '
            f'"Timestamp": "2023-02-0{i}T10:00:00Z", "Comment": ""}}\n'
            for kind, user, i in (("read", "p", 1), ("star", "p", 2), ("read", "q", 3))
        ),
        "users.jsonl": '{"UserId": "p", "Labels": {"city": "Bonn"}}\n{"UserId": "q", "Labels": {"city": "Ulm"}}\n',
    },
}
# Read as Latin-1 where they are no UTF-8, since they were published so: any byte is a character there.
ANY_ENCODING = {"movielens"}


@pytest.fixture(params=READERS, ids=[reader.name for reader in READERS])
def reader(request: pytest.FixtureRequest) -> Reader:
    return request.param


@pytest.fixture
def folder(reader: Reader, tmp_path: Path) -> Path:
    return write_sample(reader.name, tmp_path / "sample")


def write_sample(name: str, folder: Path) -> Path:
    folder.mkdir()
    for file, text in SAMPLES[name].items():
        (folder / file).write_bytes(text.encode())
    return folder


def frames(raw: RawTables) -> Iterator[tuple[str, pl.DataFrame]]:
    for name in TABLES:
        if (frame := getattr(raw, name)) is not None:
            yield name, frame


def assert_same_data(found: Dataset, expected: Dataset) -> None:
    for name in TABLES:
        one, other = getattr(found, name), getattr(expected, name)
        assert (one is None) == (other is None), name
        if one is not None:
            assert one.equals(other), f"{name}:\n{one}\n{other}"


def test_every_reader_has_a_sample_and_a_line_in_the_message() -> None:
    names = [reader.name for reader in READERS]
    assert len(set(names)) == len(names)
    assert set(names) == set(SAMPLES) == set(LOOKED_FOR)


def test_it_alone_detects_its_sample(reader: Reader, folder: Path) -> None:
    assert [other.name for other in READERS if other.detects(folder)] == [reader.name]
    assert detect_format(folder) == reader.name


def test_it_detects_nothing_in_an_empty_folder(reader: Reader, tmp_path: Path) -> None:
    assert reader.detects(tmp_path) is False


def test_detection_survives_folders_and_damaged_files_under_its_names(reader: Reader, tmp_path: Path) -> None:
    for file in SAMPLES[reader.name]:
        (tmp_path / file).write_bytes(b"\x1f\x8bnot gzip\xff\x00")
    (tmp_path / f"{file}.gz").mkdir()
    assert reader.detects(tmp_path) in (True, False)


def test_raw_frames_carry_place_and_standard_columns(reader: Reader, folder: Path) -> None:
    faults = FaultLog()
    raw = reader.read(folder, DataConfig(), faults)
    assert faults.faults == []
    assert raw.items is not None
    assert raw.interactions is not None or raw.impressions is not None
    for name, frame in frames(raw):
        assert set(TABLES[name].required) <= set(frame.columns), name
        assert frame.height > 0
        assert frame.schema[ROW].is_integer()
        assert frame[ROW].min() >= 1  # type: ignore[operator]
        assert frame[FILE].dtype == pl.String
        assert set(frame[FILE]) <= set(SAMPLES[reader.name])


def test_the_sample_becomes_a_sound_dataset(reader: Reader, folder: Path) -> None:
    dataset = load_dataset(folder)
    assert (dataset.format, dataset.name) == (reader.name, "sample")
    assert (dataset.items.height, dataset.n_users) == (3, 2)
    assert dataset.interactions.height >= 3
    assert dataset.items[Col.TITLE].null_count() == 0
    for spec, table in (
        (ITEMS, dataset.items),
        (INTERACTIONS, dataset.interactions),
        (IMPRESSIONS, dataset.impressions),
    ):
        if table is not None:
            assert list(spec.dtypes.items()) == [(name, table.schema[name]) for name in spec.dtypes]
            assert not set(table.columns) & {ROW, FILE}
            assert table[Col.ITEM_ID].is_in(dataset.items[Col.ITEM_ID].to_list()).all()
            assert sum(table[name].null_count() for name in spec.required) == 0
    assert dataset.interactions[Col.TIMESTAMP].is_sorted()
    if dataset.users is not None:
        assert list(USERS.dtypes) == dataset.users.columns[: len(USERS.dtypes)]
        assert dataset.users[Col.USER_ID].is_unique().all()


def test_reading_twice_gives_the_same_and_leaves_the_folder_alone(reader: Reader, folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert_same_data(load_dataset(folder), load_dataset(folder))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_gzipped_files_give_the_same(reader: Reader, folder: Path) -> None:
    expected = load_dataset(folder)
    for path in sorted(folder.iterdir()):
        (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert detect_format(folder) == reader.name
    assert_same_data(load_dataset(folder), expected)


@pytest.mark.parametrize("change", ["crlf", "bom", "no line end"])
def test_line_ends_and_byte_order_marks_change_nothing(reader: Reader, folder: Path, change: str) -> None:
    expected = load_dataset(folder)
    for path in folder.iterdir():
        data = path.read_bytes()
        changed = {"crlf": data.replace(b"\n", b"\r\n"), "bom": b"\xef\xbb\xbf" + data, "no line end": data[:-1]}
        path.write_bytes(changed[change])
    assert detect_format(folder) == reader.name
    assert_same_data(load_dataset(folder), expected)


@pytest.mark.parametrize("damage", ["truncated gzip", "empty", "binary"])
def test_each_damaged_file_is_named(reader: Reader, folder: Path, damage: str) -> None:
    for file in SAMPLES[reader.name]:
        path = folder / file
        sound = path.read_bytes()
        path.write_bytes({"truncated gzip": gzip.compress(sound)[:-9], "empty": b"", "binary": b"\0" + sound}[damage])
        report = validate_folder(folder, reader.name)
        assert file in {fault.file for fault in report.faults}, f"{file}: {report.lines()}"
        assert all(fault.remedy for fault in report.faults)
        with pytest.raises(DataError, match=file):
            load_dataset(folder, reader.name)
        path.write_bytes(sound)


def test_undecodable_text_is_named_with_its_remedy(reader: Reader, folder: Path) -> None:
    if reader.name in ANY_ENCODING:
        pytest.skip(f"{reader.name} is published in Latin-1")
    for file in SAMPLES[reader.name]:
        path = folder / file
        sound = path.read_bytes()
        path.write_bytes(sound + b"\xe9\n")
        with pytest.raises(DataError, match=rf"{file}: byte 0xe9 at byte offset {len(sound)} .*iconv -f latin1"):
            load_dataset(folder, reader.name)
        path.write_bytes(sound)


@pytest.mark.parametrize("taken", [0, 1], ids=["items", "behaviour"])
def test_without_items_or_behaviour_it_says_what_is_missing(reader: Reader, folder: Path, taken: int) -> None:
    (folder / list(SAMPLES[reader.name])[taken]).unlink()
    with pytest.raises(DataError, match=r"is missing|there is no|there is neither"):
        load_dataset(folder, reader.name)


def test_behaviour_on_an_unknown_item_is_dropped_and_counted_within_the_limit(reader: Reader, folder: Path) -> None:
    path = folder / next(iter(SAMPLES[reader.name]))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))  # the last item is gone, the behaviour on it is not
    with pytest.raises(DataError, match=r"have an item that the items table lacks"):
        load_dataset(folder, reader.name)
    dataset = load_dataset(folder, reader.name, DataConfig(max_unknown_item_share=1.0))
    assert dataset.items.height == 2
    assert any("with an unknown item, dropped" in note for note in dataset.notes)
    kept = load_dataset(folder, reader.name, DataConfig(unknown_items="keep"))
    assert kept.items.height == 3
    assert kept.items[Col.TITLE].to_list()[-1] is None


PUBLISHED = {
    "ml-1m-half": ("movielens", 6_040, 3_883, 487_650, {}),
    "ml-100k": ("recbole", 943, 1_682, 100_000, {}),
    "amazon-gift-cards-5core": ("amazon", 458, 1_547, 2_972, {}),
    "mind-zh": ("mind", 2_405, 43_306, 80_119, {"behaviors_file": "behaviors_covered.tsv.gz"}),
}


@pytest.mark.data
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_data_load_completely(published_data: Path, name: str) -> None:
    format_name, n_users, n_items, n_interactions, config = PUBLISHED[name]
    report = validate_folder(published_data / name, config=DataConfig.model_validate(config))
    assert report.is_sound, report.lines()
    assert report.summary is not None
    assert report.format == format_name
    assert (report.summary.users, report.summary.items) == (n_users, n_items)
    assert report.summary.interactions == n_interactions

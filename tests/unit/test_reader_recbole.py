"""The RecBole reader, on hand-written atomic files and on the published ones."""

import gzip
from pathlib import Path

import pytest

from recsys.config import DataConfig
from recsys.datasets import load_dataset
from recsys.datasets.faults import FaultLog
from recsys.datasets.raw import FILE, ROW, RawTables
from recsys.datasets.recbole import RecBoleReader
from recsys.errors import DataError

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu1\ti1\t4\t881250949\nu2\ti1\t2.5\t891717742.0\n"
ITEM = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "i1\tToy Story\t1995\tAnimation Children's Comedy\n"
    "i2\tGoldenEye\t1996\t\n"
)
USER = "user_id:token\tage:token\tgender:token\nu1\t24\tM\nu2\t53\tF\n"


def read(folder: Path, **config: str) -> tuple[RawTables, FaultLog]:
    faults = FaultLog()
    return RecBoleReader().read(folder, DataConfig.model_validate(config), faults), faults


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    for suffix, text in (("inter", INTER), ("item", ITEM), ("user", USER)):
        (tmp_path / f"toy.{suffix}").write_text(text, encoding="utf-8")
    return tmp_path


def with_inter(folder: Path, *lines: str) -> Path:
    (folder / "toy.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def with_item(folder: Path, *lines: str) -> Path:
    (folder / "toy.item").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_ratings_items_and_users_are_read(toy: Path) -> None:
    raw, faults = read(toy)

    assert not faults.faults
    assert raw.interactions is not None
    assert raw.items is not None
    assert raw.users is not None
    assert raw.interactions.drop(ROW, FILE).rows() == [
        ("u1", "i1", "881250949", "rating", "4"),
        ("u2", "i1", "891717742.0", "rating", "2.5"),
    ]
    assert raw.items.drop(ROW, FILE).to_dict(as_series=False) == {
        "item_id": ["i1", "i2"],
        "title": ["Toy Story", "GoldenEye"],
        "release_year": ["1995", "1996"],
        "categories": [["Animation", "Children's", "Comedy"], None],
    }
    assert raw.users.drop(ROW, FILE).rows() == [("u1", "24", "M"), ("u2", "53", "F")]


def test_loaded_years_ages_and_times_are_typed(toy: Path) -> None:
    dataset = load_dataset(toy)

    assert dataset.format == "recbole"
    assert dataset.items["release_year"].to_list() == [1995.0, 1996.0]
    assert dataset.interactions["timestamp"].dt.year().to_list() == [1997, 1998]


def test_gzipped_files_read_like_plain_ones(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    packed = tmp_path_factory.mktemp("packed")
    for path in toy.iterdir():
        (packed / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))

    plain, zipped = read(toy)[0], read(packed)[0]

    assert RecBoleReader().detects(packed)
    for name in ("items", "interactions", "users"):
        assert getattr(plain, name).drop(FILE).equals(getattr(zipped, name).drop(FILE))


def test_interactions_without_a_rating_are_clicks(toy: Path) -> None:
    with_inter(toy, "session_id:token\titem_id:token\ttimestamp:float", "s1\ti2\t1000000000")

    interactions = read(toy)[0].interactions

    assert interactions is not None
    assert interactions.drop(ROW, FILE).rows() == [("s1", "i2", "1000000000", "click")]


def test_rating_wins_over_label_and_reviews_are_text(toy: Path) -> None:
    with_inter(
        toy,
        "user_id:token\titem_id:token\trating:float\tlabel:float\ttimestamp:float\treview:token_seq",
        "u1\ti1\t5\t1\t1000000000\tgood one",
    )

    raw, _ = read(toy)

    assert raw.impressions is None
    assert raw.interactions is not None
    assert raw.interactions.select("event", "value", "text").rows() == [("rating", "5", "good one")]


def test_labels_without_ratings_are_impressions_grouped_by_user_and_time(toy: Path) -> None:
    with_inter(
        toy,
        "user_id:token\titem_id:token\tlabel:float\ttimestamp:float",
        "u1\ti1\t1.0\t1000000000",
        "u1\ti2\t0.0\t1000000000",
        "u2\ti2\t0\t1000000000",
    )

    raw, faults = read(toy)

    assert not faults.faults
    assert raw.interactions is None
    assert raw.impressions is not None
    assert raw.impressions.drop(ROW, FILE).rows() == [
        ("u1@1000000000", "u1", "i1", "1000000000", True),
        ("u1@1000000000", "u1", "i2", "1000000000", False),
        ("u2@1000000000", "u2", "i2", "1000000000", False),
    ]


def test_sessions_beside_users_group_labelled_rows(toy: Path) -> None:
    with_inter(
        toy,
        "session_id:token\tuser_id:token\titem_id:token\tlabel:float\ttimestamp:float",
        "s9\tu1\ti1\t1\t1000000000",
    )

    impressions = read(toy)[0].impressions

    assert impressions is not None
    assert impressions.select("request_id", "user_id").rows() == [("s9", "u1")]


def test_label_that_is_no_number_is_a_fault(toy: Path) -> None:
    with_inter(toy, "user_id:token\titem_id:token\tlabel:float\ttimestamp:float", "u1\ti1\t1\t1", "u1\ti2\tyes\t1")

    _, faults = read(toy)

    assert [(fault.row, fault.column, fault.value) for fault in faults.faults] == [(2, "label", "yes")]
    assert "the label is missing or no number" in faults.faults[0].problem


@pytest.mark.parametrize(
    ("published", "categories"),
    [
        ("'Clothing, Shoes & Jewelry', 'Bags', 'Bags'", ["Clothing, Shoes & Jewelry", "Bags"]),
        ('["Books", "Women\'s Studies"]', ["Books", "Women's Studies"]),
        ("Coffee & Tea, Food", ["Coffee & Tea", "Food"]),
    ],
)
def test_categories_are_split_at_quotes_or_commas(toy: Path, published: str, categories: list[str]) -> None:
    with_item(toy, "item_id:token\ttitle:token\tcategories:token_seq", f"i1\tA b\t{published}")

    items = read(toy)[0].items

    assert items is not None
    assert items["categories"].to_list() == [categories]


def test_title_is_guessed_and_vectors_are_left_out(toy: Path) -> None:
    with_item(
        toy,
        "item_id:token\tbook_title:token_seq\tabstract:token_seq\tbrand:token\tvector:float_seq\tgenre:token",
        "i1\tSilas Marner\tA weaver.\tPenguin\t0.1 0.2\tnovel",
    )

    raw, faults = read(toy)

    assert raw.items is not None
    assert raw.items.drop(ROW, FILE).to_dicts() == [
        {"item_id": "i1", "title": "Silas Marner", "description": "A weaver.", "brand": "Penguin", "genre": "novel"}
    ]
    assert dict(faults.notes) == {"columns of toy.item that hold vectors, left out": 1}


def test_column_that_bears_a_standard_name_unchosen_is_renamed(toy: Path) -> None:
    with_item(toy, "item_id:token\tmovie_title:token_seq\ttitle:token", "i1\tSilas Marner\tother")

    items = read(toy)[0].items

    assert items is not None
    assert items.drop(ROW, FILE).to_dicts() == [{"item_id": "i1", "title": "Silas Marner", "title_text": "other"}]


def test_missing_items_are_a_fault_unless_unknown_items_are_kept(toy: Path) -> None:
    (toy / "toy.item").unlink()

    with pytest.raises(DataError, match=r"\*\.item: the file is missing.*set data.unknown_items to keep"):
        load_dataset(toy)
    assert load_dataset(toy, config=DataConfig(unknown_items="keep")).items["item_id"].to_list() == ["i1"]


@pytest.mark.parametrize(
    ("header", "column"),
    [
        ("user_id:token\titem_id:token\tstars", "stars"),
        ("user_id:token\titem_id:token\ttimestamp:int", "timestamp:int"),
        ("user_id:token\titem_id:token\t:float", ":float"),
    ],
)
def test_untyped_header_is_a_fault(toy: Path, header: str, column: str) -> None:
    with_inter(toy, header, "u\ti\t1")

    raw, faults = read(toy)

    assert raw.interactions is None
    assert [(fault.file, fault.column) for fault in faults.faults] == [("toy.inter", column)]
    assert "names a column without its type or twice" in faults.faults[0].problem


def test_missing_columns_are_faults_all_at_once(toy: Path) -> None:
    with_inter(toy, "uid:token\titem:token\ttimestamp:float", "u\ti\t1")

    _, faults = read(toy)

    assert [fault.column for fault in faults.faults] == ["user_id", "item_id"]
    assert str(faults.faults[0]) == (
        "toy.inter, column user_id: a column is missing (value 'uid, item, timestamp'). "
        "Add user_id:token or session_id:token."
    )


def test_two_data_sets_in_one_folder_are_a_fault(toy: Path) -> None:
    (toy / "other.inter").write_text(INTER, encoding="utf-8")

    _, faults = read(toy)

    assert "there are 2 files of this kind: other.inter, toy.inter" in str(faults.faults[0])


def test_detection_needs_a_typed_header(tmp_path: Path) -> None:
    (tmp_path / "a.inter").write_text("user_id\titem_id\nu\ti\n", encoding="utf-8")

    assert not RecBoleReader().detects(tmp_path)


@pytest.mark.data
def test_published_100k_loads_whole(published_data: Path) -> None:
    dataset = load_dataset(published_data / "ml-100k")

    assert dataset.format == "recbole"
    assert dataset.interactions.height == 100_000
    assert dataset.interactions["user_id"].n_unique() == 943
    assert dataset.items.height == 1_682
    assert dataset.items["title"].null_count() == 0
    assert dataset.users is not None
    assert dataset.users.height == 943
    assert dataset.interactions["value"].unique().sort().to_list() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert str(dataset.interactions["timestamp"].min()).startswith("1997-09-20")
    assert str(dataset.interactions["timestamp"].max()).startswith("1998-04-22")
    assert set(dataset.notes) == set()

"""Training from the database of a service: the same data as a folder of tables makes the same data set."""

from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa

from recsys.config import DataConfig
from recsys.datasets import load_dataset, validate_folder
from recsys.errors import DataError
from recsys.schema import IMPRESSIONS, Col
from serving.store import Event, ShownItem, SqlEventStore, StoredItem, StoredSlate

SECOND_US = 1_000_000
NOON_US = 1_709_294_400 * SECOND_US  # 2024-03-01T12:00:00Z
ITEMS_CSV = """item_id,title,description,categories,created_at,price
i1,Wool socks,Warm and grey,Clothing|Socks,2023-01-02T03:04:05Z,12.5
i2,Straw hat,,Clothing,,30
i3,Field guide,Birds,Books,,24
"""
INTERACTIONS_CSV = '''user_id,item_id,timestamp,event,value,request_id,text
ann,i1,2024-03-01T12:00:05Z,click,,r1,
ann,i2,2024-03-01T12:00:06Z,rating,4.5,,"good, ""dry"""
bob,i3,2024-03-01T12:00:01Z,view,,,
'''
IMPRESSIONS_CSV = """request_id,user_id,timestamp,item_id,position,clicked,propensity
r1,ann,2024-03-01T12:00:00Z,i2,1,false,
r1,ann,2024-03-01T12:00:00Z,i1,2,true,0.25
"""


def database(tmp_path: Path) -> tuple[SqlEventStore, str]:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    return SqlEventStore(url), url


def fill(store: SqlEventStore) -> None:
    created_us = 1_672_628_645 * SECOND_US
    socks = ("Clothing", "Socks")
    store.put_item(StoredItem("i1", "old title"), updated_us=1)
    store.put_item(StoredItem("i1", "Wool socks", "Warm and grey", socks, created_us, {"price": 12.5}), updated_us=2)
    store.put_item(StoredItem("i2", "Straw hat", None, ("Clothing",), None, {"price": 30}), updated_us=3)
    store.put_item(StoredItem("i3", "Field guide", "Birds", ("Books",), None, {"price": 24}), updated_us=4)
    shown = (ShownItem("i2", 1), ShownItem("i1", 2, 0.25))
    store.add_slates(
        [
            StoredSlate("r1", "ann", NOON_US, "12", shown),
            StoredSlate("r2", None, NOON_US, "12", shown),
        ]
    )
    store.add(
        [
            Event("e1", "ann", "i1", "click", NOON_US + 5 * SECOND_US, recommendation_id="r1"),
            Event("e2", "ann", "i2", "rating", NOON_US + 6 * SECOND_US, 4.5, text='good, "dry"'),
            Event("e3", "bob", "i3", "view", NOON_US + SECOND_US),
        ],
        received_us=NOON_US,
    )


def test_a_database_is_the_data_set_that_the_same_tables_are(tmp_path: Path) -> None:
    store, url = database(tmp_path)
    fill(store)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, text in (("items", ITEMS_CSV), ("interactions", INTERACTIONS_CSV), ("impressions", IMPRESSIONS_CSV)):
        (folder / f"{name}.csv").write_text(text)

    stored, read = load_dataset(url), load_dataset(folder)

    assert (stored.name, stored.format) == ("shop", "database")
    assert stored.items.select(read.items.columns).equals(read.items)
    assert stored.interactions.equals(read.interactions)
    assert stored.impressions is not None
    assert read.impressions is not None
    assert stored.impressions.equals(read.impressions)
    assert stored.impressions.schema == IMPRESSIONS.dtypes
    assert stored.notes["slates of someone without an id, left out"] == 1


def test_a_database_of_postgresql_reads_alike(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("postgres").new_database("training")
    store, sqlite_url = database(tmp_path)
    server = SqlEventStore(url)
    fill(store)
    fill(server)
    server.close()

    assert load_dataset(url).fingerprint() == load_dataset(sqlite_url).fingerprint()


def test_a_click_counts_where_its_user_names_the_slate_and_likes_the_item(tmp_path: Path) -> None:
    store, url = database(tmp_path)
    for i in range(5):
        store.put_item(StoredItem(f"i{i}", f"Title {i}"), updated_us=i)
    store.add_slates([StoredSlate("r1", "ann", NOON_US, "12", tuple(ShownItem(f"i{i}", i + 1) for i in range(5)))])
    later = NOON_US + SECOND_US
    store.add(
        [
            Event("e0", "ann", "i0", "purchase", later, recommendation_id="r1"),
            Event("e1", "bob", "i1", "click", later, recommendation_id="r1"),
            Event("e2", "ann", "i2", "rating", later, 1.0, recommendation_id="r1"),
            Event("e3", "ann", "i3", "hide", later, recommendation_id="r1"),
            Event("e4", "ann", "i4", "click", later),
        ],
        received_us=later,
    )
    config = DataConfig(min_rating=3.0, event_weights={"purchase": 4.0, "click": 1.0, "hide": 0.0})

    impressions = load_dataset(url, config=config).impressions

    assert impressions is not None
    assert impressions.filter(pl.col(Col.CLICKED))[Col.ITEM_ID].to_list() == ["i0"]


def test_what_was_deleted_is_not_learnt_from(tmp_path: Path) -> None:
    store, url = database(tmp_path)
    fill(store)
    store.delete_item("i2", updated_us=9)
    store.delete_user("bob", deleted_us=NOON_US + 9 * SECOND_US)

    dataset = load_dataset(url)

    assert dataset.items[Col.ITEM_ID].to_list() == ["i1", "i3"]
    assert dataset.user_ids() == ["ann"]
    assert dataset.notes["rows on deleted items, left out"] == 2


def test_items_of_a_file_stand_beside_those_of_the_database_which_win(tmp_path: Path) -> None:
    store, url = database(tmp_path)
    fill(store)
    store.delete_item("i3", updated_us=9)
    file = tmp_path / "catalogue.csv"
    file.write_text("item_id,title,price,colour\ni1,of the file,1,red\ni3,of the file,2,red\ni4,Lamp,3,blue\n")

    dataset = load_dataset(url, config=DataConfig(items_file=str(file)))

    titles = dict(zip(dataset.items[Col.ITEM_ID], dataset.items[Col.TITLE], strict=True))
    assert titles == {"i1": "Wool socks", "i2": "Straw hat", "i4": "Lamp"}
    assert dict(zip(dataset.items[Col.ITEM_ID], dataset.items["price"], strict=True)) == {"i1": 12.5, "i2": 30, "i4": 3}


def test_a_database_without_items_says_what_to_do(tmp_path: Path) -> None:
    store, url = database(tmp_path)
    store.add([Event("e1", "ann", "i1", "click", NOON_US)], received_us=NOON_US)

    with pytest.raises(DataError, match=r"the database holds no items\. Put them with PUT /v1/items, name a file"):
        load_dataset(url)
    assert load_dataset(url, config=DataConfig(unknown_items="keep")).items[Col.ITEM_ID].to_list() == ["i1"]


def test_a_database_without_behaviour_is_refused(tmp_path: Path) -> None:
    store, url = database(tmp_path)
    store.put_item(StoredItem("i1", "Socks"), updated_us=1)

    with pytest.raises(DataError, match="there is no behaviour"):
        load_dataset(url)


def test_faults_of_a_database_are_named_by_table_and_number(tmp_path: Path) -> None:
    store, url = database(tmp_path)
    fill(store)
    store.add([Event("old", "ann", "i1", "click", 1)], received_us=NOON_US)

    report = validate_folder(url)

    assert not report.is_sound
    assert "events, row 4, column timestamp: the time lies before 1990" in str(report.faults[0])


def test_a_database_that_is_not_there_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"sqlite:///.*none\.db: there is no such file"):
        load_dataset(f"sqlite:///{tmp_path / 'none.db'}")
    report = validate_folder("postgresql+psycopg://me:secret@127.0.0.1:1/none")
    assert "cannot be read" in str(report.faults[0])
    assert "secret" not in "\n".join(report.lines())


def test_a_driver_that_is_missing_is_named() -> None:
    with pytest.raises(DataError, match=r"pg8000 is missing.* pip install 'psycopg\[binary\]', and begin the URL with"):
        load_dataset("postgresql+pg8000://me:secret@127.0.0.1:1/none")


def test_a_database_of_another_version_is_refused(tmp_path: Path) -> None:
    store, url = database(tmp_path)
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE recsys_schema_version SET version_num = '0999'"))
    engine.dispose()
    store.close()

    with pytest.raises(DataError, match="the database is at revision 0999, this version of recsys-engine reads 0002"):
        load_dataset(url)

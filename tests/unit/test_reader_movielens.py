"""The MovieLens reader, on hand-written releases and on the published one."""

import gzip
from pathlib import Path

import polars as pl
import pytest

from recsys.config import DataConfig
from recsys.datasets import load_dataset
from recsys.datasets.faults import FaultLog
from recsys.datasets.movielens import MovieLensReader, first_line
from recsys.datasets.raw import FILE, ROW, RawTables
from recsys.errors import DataError


def read(folder: Path) -> tuple[RawTables, FaultLog]:
    faults = FaultLog()
    return MovieLensReader().read(folder, DataConfig(), faults), faults


def write(folder: Path, name: str, text: str, encoding: str = "utf-8") -> None:
    data = text.encode(encoding)
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


@pytest.fixture
def ml_1m(tmp_path: Path) -> Path:
    write(tmp_path, "ratings.dat", "1::10::5::978300760\n2::10::3::978302109\n2::30::1::978301968\n")
    write(
        tmp_path,
        "movies.dat",
        "10::Matrix, The (1999)::Action|Sci-Fi\n20::Misérables, Les (1995)::Drama\n30::Seven (1995)::Crime\n",
        "latin-1",
    )
    write(tmp_path, "users.dat", "1::F::1::10::48067\n2::M::56::16::02460\n")
    return tmp_path


def test_ratings_become_rating_events_in_file_order(ml_1m: Path) -> None:
    raw, faults = read(ml_1m)

    assert raw.interactions is not None
    assert raw.interactions.to_dict(as_series=False) == {
        "user_id": ["1", "2", "2"],
        "item_id": ["10", "10", "30"],
        "timestamp": ["978300760", "978302109", "978301968"],
        "event": ["rating"] * 3,
        "value": ["5", "3", "1"],
        ROW: [1, 2, 3],
        FILE: ["ratings.dat"] * 3,
    }
    assert raw.impressions is None
    assert not faults.faults


def test_films_have_clean_titles_years_and_genres_from_latin_1(ml_1m: Path) -> None:
    items = read(ml_1m)[0].items

    assert items is not None
    assert items["title"].to_list() == ["The Matrix", "Les Misérables", "Seven"]
    assert items["year"].to_list() == [1999, 1995, 1995]
    assert items["categories"].to_list() == [["Action", "Sci-Fi"], ["Drama"], ["Crime"]]


def test_users_keep_zip_codes_and_get_named_occupations(ml_1m: Path) -> None:
    users = read(ml_1m)[0].users

    assert users is not None
    assert users.drop(ROW, FILE).rows() == [
        ("1", "F", "1", "K-12 student", "48067"),
        ("2", "M", "56", "self-employed", "02460"),
    ]


@pytest.mark.parametrize(
    ("published", "title", "year"),
    [
        ("Toy Story (1995)", "Toy Story", 1995),
        ("2001: A Space Odyssey (1968)", "2001: A Space Odyssey", 1968),
        ("Cry, the Beloved Country (1995)", "Cry, the Beloved Country", 1995),
        ("Enfer, L' (1994)", "L'Enfer", 1994),
        ("Postino, Il (The Postman) (1994)", "Il Postino (The Postman)", 1994),
        ("Hate (Haine, La) (1995)", "Hate (La Haine)", 1995),
        ("Star Maker, The (Uomo delle stelle, L') (1995)", "The Star Maker (L'Uomo delle stelle)", 1995),
        ("Ring (a.k.a. Ring, The) (1998)", "Ring (a.k.a. The Ring)", 1998),
        ("Karate Kid, Part II, The (1986)", "The Karate Kid, Part II", 1986),
        ("Death Note (2006–2007)", "Death Note", 2006),
        ("Land Before Time III (1995) (V)", "Land Before Time III", 1995),
        ("Nosferatu", "Nosferatu", None),
        ("(1995)", "(1995)", 1995),
    ],
)
def test_title_loses_its_year_and_gets_its_article_back(
    ml_1m: Path, published: str, title: str, year: int | None
) -> None:
    write(ml_1m, "movies.dat", f"10::{published}::Drama\n")

    items = read(ml_1m)[0].items

    assert items is not None
    assert items.select("title", "year").rows() == [(title, year)]


def test_extra_infos_give_plot_people_and_further_genres(ml_1m: Path) -> None:
    write(
        ml_1m,
        "movies_extrainfos.dat.gz",
        "30::Seven::1995::R::22 Sep 1995::Crime, Drama, Mystery::David Fincher(co-director), A B::"
        "Andrew Walker (story), C D (novel (1990)), Andrew Walker::Morgan Freeman, Brad Pitt::Two policemen.::http://x\n"
        "10::The Matrix::1999::N/A::N/A::Action, Sci-Fi::N/A::N/A::Keanu Reeves::::N/A\n"
        "99::Nobody::1999::R::N/A::Drama::A::B::C::D::E\n",
    )

    raw, faults = read(ml_1m)

    assert raw.items is not None
    rows = raw.items.select("rated", "director", "writer", "actors", "genres_extra", "description").rows()
    assert rows[0] == (None, None, None, ["Keanu Reeves"], None, None)
    assert rows[1] == (None, None, None, None, None, None)
    assert rows[2] == (
        "R",
        ["David Fincher", "A B"],
        ["Andrew Walker", "C D"],
        ["Morgan Freeman", "Brad Pitt"],
        ["Drama", "Mystery"],
        "Two policemen.",
    )
    assert "poster_url" not in raw.items.columns
    assert raw.items["categories"].to_list()[2] == ["Crime"]
    assert dict(faults.notes) == {"films of movies_extrainfos.dat.gz that the films file lacks, left out": 1}


def test_year_of_extra_infos_stands_in_for_a_title_without_one(ml_1m: Path) -> None:
    write(ml_1m, "movies.dat", "10::Matrix, The::Action\n")
    line = "10::The Matrix::1999::R::N/A::Action::A::B::C::D::E\n"
    write(ml_1m, "movies_extrainfos.dat", line + line)

    raw, faults = read(ml_1m)

    assert raw.items is not None
    assert raw.items["year"].to_list() == [1999]
    assert dict(faults.notes) == {"repeated films in movies_extrainfos.dat, of which the first counts": 1}


def test_gzipped_files_read_like_plain_ones(ml_1m: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    packed = tmp_path_factory.mktemp("packed")
    for path in ml_1m.iterdir():
        (packed / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))

    plain, zipped = read(ml_1m)[0], read(packed)[0]

    assert MovieLensReader().detects(packed)
    for name in ("items", "interactions", "users"):
        assert getattr(plain, name).drop(FILE).equals(getattr(zipped, name).drop(FILE))


def test_other_files_of_the_folder_are_ignored(ml_1m: Path) -> None:
    before = read(ml_1m)[0]
    write(ml_1m, "cold_items.txt", "10\n30\n")
    write(ml_1m, "README.md", "# about\n")

    after, faults = read(ml_1m)

    assert before.items is not None
    assert after.items is not None
    assert before.items.equals(after.items)
    assert not faults.faults


def test_csv_release_with_quoted_titles_and_tags(tmp_path: Path) -> None:
    write(tmp_path, "ratings.csv", "userId,movieId,rating,timestamp\n7,3,4.5,964982703\n8,4,0.5,964981247\n")
    write(
        tmp_path,
        "movies.csv",
        'movieId,title,genres\n3,"American President, The (1995)",Comedy|Drama\n4,Wild (2006),(no genres listed)\n',
    )
    write(
        tmp_path,
        "tags.csv",
        "userId,movieId,tag,timestamp\n7,3,politics,1\n8,3,Romance,2\n9,3, romance,3\n9,99,unused,4\n",
    )
    write(tmp_path, "links.csv", "movieId,imdbId,tmdbId\n3,0112346,9087\n")

    raw, faults = read(tmp_path)

    assert not faults.faults
    assert raw.items is not None
    assert raw.interactions is not None
    assert raw.items.drop(ROW, FILE).rows() == [
        ("3", "The American President", ["Comedy", "Drama"], 1995, ["romance", "politics"]),
        ("4", "Wild", None, 2006, None),
    ]
    assert raw.interactions["value"].to_list() == ["4.5", "0.5"]
    assert raw.users is None


def test_only_the_twenty_most_given_tags_are_kept(tmp_path: Path) -> None:
    write(tmp_path, "ratings.csv", "userId,movieId,rating,timestamp\n7,3,4.5,964982703\n")
    write(tmp_path, "movies.csv", "movieId,title,genres\n3,A (1995),Comedy\n")
    tags = [f"{user},3,tag{tag},5" for tag in range(25) for user in range(1 + tag)]
    write(tmp_path, "tags.csv", "userId,movieId,tag,timestamp\n" + "\n".join(tags) + "\n")

    items = read(tmp_path)[0].items

    assert items is not None
    assert items["tags"].to_list() == [[f"tag{tag}" for tag in range(24, 4, -1)]]


def test_100k_release_reads_genre_flags(tmp_path: Path) -> None:
    flags = ["0"] * 19
    comedy, nothing, unknown = flags.copy(), flags.copy(), flags.copy()
    comedy[4] = comedy[5] = "1"
    unknown[0] = "1"
    films = [
        ("1", "Toy Story (1995)", comedy),
        ("2", "Été, L' (1968)", nothing),
        ("3", "unknown", unknown),
    ]
    text = "".join(f"{i}|{title}|01-Jan-1995||http://x|{'|'.join(f)}\n" for i, title, f in films)
    write(tmp_path, "u.item", text, "latin-1")
    write(tmp_path, "u.data", "196\t1\t3\t881250949\n186\t2\t4\t891717742\n")
    write(tmp_path, "u.user", "196|49|M|writer|55105\n")

    raw, faults = read(tmp_path)

    assert MovieLensReader().detects(tmp_path)
    assert not faults.faults
    assert raw.items is not None
    assert raw.items.drop(ROW, FILE).rows() == [
        ("1", "Toy Story", ["Children's", "Comedy"], 1995),
        ("2", "L'Été", None, 1968),
        ("3", "unknown", None, None),
    ]
    assert raw.interactions is not None
    assert raw.interactions.drop(ROW, FILE).row(0) == ("196", "1", "881250949", "rating", "3")
    assert raw.users is not None
    assert raw.users.drop(ROW, FILE).rows() == [("196", "49", "M", "writer", "55105")]


def test_missing_films_are_a_fault_that_names_the_file(ml_1m: Path) -> None:
    (ml_1m / "movies.dat").unlink()

    raw, faults = read(ml_1m)

    assert raw.items is None
    assert [str(fault) for fault in faults.faults] == [
        "movies.dat or movies.csv: the file is missing. Copy it from the MovieLens release."
    ]


def test_missing_parts_of_the_100k_release_are_faults(tmp_path: Path) -> None:
    write(tmp_path, "u.data", "196\t1\t3\t881250949\n")

    _, faults = read(tmp_path)

    assert [fault.file for fault in faults.faults] == ["u.item", "u.user"]


def test_missing_csv_column_is_named_as_published(tmp_path: Path) -> None:
    write(tmp_path, "ratings.csv", "userId,movieId,score,timestamp\n7,3,4.5,964982703\n")
    write(tmp_path, "movies.csv", "movieId,title,genres\n3,A (1995),Comedy\n")

    raw, faults = read(tmp_path)

    assert raw.interactions is None
    assert [(fault.file, fault.column) for fault in faults.faults] == [("ratings.csv", "rating")]


def test_short_row_is_a_fault_with_its_row(ml_1m: Path) -> None:
    write(ml_1m, "ratings.dat", "1::10::5::978300760\n2::10::3\n")

    with pytest.raises(DataError, match=r"ratings\.dat, row 2: the row does not have 4 fields"):
        load_dataset(ml_1m)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("ratings.csv", "user_id,item_id,rating\n1,2,3\n"),
        ("movies.csv", "id,name\n1,2\n"),
        ("ratings.dat", "1,2,3,4\n"),
        ("u.data", "user_id:token\titem_id:token\n"),
        ("notes.txt", "1::2::3::4\n"),
    ],
)
def test_files_of_other_shapes_are_not_claimed(tmp_path: Path, name: str, line: str) -> None:
    write(tmp_path, name, line)

    assert not MovieLensReader().detects(tmp_path)


def test_first_line_skips_blanks_and_survives_what_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path, "blank.txt", "\n  \r\nfirst\r\nsecond\n")
    write(tmp_path, "marked.txt", "\ufefffirst\n")
    write(tmp_path, "packed.dat", "")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"first line\n" * 100)[:12])

    assert first_line(tmp_path / "blank.txt") == "first"
    assert first_line(tmp_path / "marked.txt") == "first"
    assert first_line(tmp_path / "packed.dat") == ""
    assert first_line(tmp_path / "cut.gz") == ""
    assert first_line(tmp_path / "absent.txt") == ""


@pytest.mark.data
def test_published_half_of_1m_loads_whole(published_data: Path) -> None:
    dataset = load_dataset(published_data / "ml-1m-half")

    assert dataset.format == "movielens"
    assert dataset.interactions.height == 487_650
    assert dataset.interactions["user_id"].n_unique() == 2_999
    assert dataset.interactions["item_id"].n_unique() == 3_615
    assert dataset.items.height == 3_883
    assert dataset.items["description"].str.len_chars().gt(20).sum() == 3_845
    assert dataset.items["year"].is_between(1919, 2000).all()
    assert not dataset.items["title"].str.contains(r", (The|A|An)$|\(\d{4}\)$").any()
    assert not dataset.items["writer"].explode().drop_nulls().str.contains(r"[()]").any()
    shawshank = dataset.items.row(by_predicate=pl.col("item_id") == "318", named=True)
    assert shawshank["title"] == "The Shawshank Redemption"
    assert shawshank["director"] == ["Frank Darabont"]
    assert dict(dataset.notes) == {}

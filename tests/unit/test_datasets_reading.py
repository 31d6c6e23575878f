"""Files into raw frames: what is read, where each row is said to stand, and what is a fault."""

import csv
import gzip
import json
from pathlib import Path

import polars as pl
import pytest

from recsys.config import DataConfig
from recsys.datasets.faults import FaultLog
from recsys.datasets.raw import FILE, ROW
from recsys.datasets.reading import find_file, read_delimited, read_json_lines, read_parquet, read_text
from recsys.datasets.tables import TablesReader, records_frame
from recsys.errors import DataError


@pytest.fixture
def faults() -> FaultLog:
    return FaultLog()


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


class TestFindFile:
    def test_it_finds_any_stem_and_suffix_with_or_without_dot_and_gz(self, tmp_path: Path) -> None:
        path = put(tmp_path, "films.dat.gz", b"x")
        put(tmp_path, "films.txt", "x")
        assert find_file(tmp_path, ["movies", "films"], [".dat"]) == path
        assert find_file(tmp_path, ["movies", "films"], ["dat"]) == path

    def test_it_finds_nothing_where_only_a_folder_has_the_name(self, tmp_path: Path) -> None:
        (tmp_path / "items.csv").mkdir()
        assert find_file(tmp_path, ["items"], [".csv"]) is None

    def test_two_files_are_refused_by_name(self, tmp_path: Path) -> None:
        put(tmp_path, "items.csv", "x")
        put(tmp_path, "items.jsonl", "x")
        with pytest.raises(DataError, match=r"there 2 times: items\.csv, items\.jsonl\. Keep the one") as caught:
            find_file(tmp_path, ["items"], [".csv", ".jsonl"])
        assert len(caught.value.faults) == 1


class TestReadText:
    def test_the_byte_order_mark_and_carriage_returns_go(self, tmp_path: Path, faults: FaultLog) -> None:
        assert read_text(put(tmp_path, "a.csv", b"\xef\xbb\xbfa,b\r\n1,2\r\n"), faults) == "a,b\n1,2\n"
        assert faults.faults == []

    def test_gzip_is_recognised_by_its_bytes_and_not_by_its_name(self, tmp_path: Path, faults: FaultLog) -> None:
        assert read_text(put(tmp_path, "a.csv", gzip.compress(b"one")), faults) == "one"
        assert read_text(put(tmp_path, "b.csv.gz", b"two"), faults) == "two"
        assert faults.faults == []

    def test_gzip_of_several_members_is_read_whole(self, tmp_path: Path, faults: FaultLog) -> None:
        assert read_text(put(tmp_path, "a.gz", gzip.compress(b"one ") + gzip.compress(b"two")), faults) == "one two"

    def test_encodings_are_tried_in_order(self, tmp_path: Path, faults: FaultLog) -> None:
        path = put(tmp_path, "a.dat", "Amélie".encode("latin-1"))
        assert read_text(path, faults, encodings=("utf-8-sig", "latin-1")) == "Amélie"
        assert read_text(path, faults) is None
        assert [fault.value for fault in faults.faults] == ["Amélie"]

    def test_without_an_encoding_it_cannot_be_called(self, tmp_path: Path, faults: FaultLog) -> None:
        with pytest.raises(ValueError, match="at least one encoding"):
            read_text(put(tmp_path, "a.csv", "x"), faults, encodings=())

    def test_a_file_that_is_not_there_is_a_fault(self, tmp_path: Path, faults: FaultLog) -> None:
        assert read_text(tmp_path / "gone.csv", faults) is None
        assert "gone.csv: the file cannot be read: No such file" in str(faults.faults[0])


class TestReadDelimited:
    def test_header_rows_and_places(self, tmp_path: Path, faults: FaultLog) -> None:
        frame = read_delimited(put(tmp_path, "a.csv", "x, y\n1,\n,b\n"), faults, quoting=True)
        assert frame is not None
        assert frame.to_dict(as_series=False) == {
            "x": ["1", None],
            "y": [None, "b"],
            ROW: [1, 2],
            FILE: ["a.csv", "a.csv"],
        }
        assert frame.schema[ROW] == pl.Int64

    def test_given_columns_make_the_first_line_a_row(self, tmp_path: Path, faults: FaultLog) -> None:
        path = put(tmp_path, "a.dat", "1::2::x\n3::4::y::\n")
        frame = read_delimited(path, faults, separator="::", columns=["a", "b", "c"], quoting=False)
        assert frame is not None
        assert frame.rows() == [("1", "2", "x", 1, "a.dat")]
        assert [(fault.row, fault.value) for fault in faults.faults] == [(2, "4 fields: 3::4::y::")]

    def test_without_quoting_quotes_are_ordinary(self, tmp_path: Path, faults: FaultLog) -> None:
        frame = read_delimited(put(tmp_path, "a.tsv", 'x\ty\n"one\t5" wide\n'), faults, separator="\t", quoting=False)
        assert frame is not None
        assert frame.row(0)[:2] == ('"one', '5" wide')

    @pytest.mark.parametrize("quoted", [False, True])
    def test_blank_lines_are_skipped_but_counted(self, tmp_path: Path, faults: FaultLog, quoted: bool) -> None:
        text = "x,y\n1,2\n\n3,4\n\n" + ('"5",6\n' if quoted else "5,6\n")
        frame = read_delimited(put(tmp_path, "a.csv", text), faults, quoting=True)
        assert frame is not None
        assert list(zip(frame["x"], frame[ROW], strict=True)) == [("1", 1), ("3", 3), ("5", 5)]

    def test_quoted_fields_hold_separators_quotes_and_line_ends(self, tmp_path: Path, faults: FaultLog) -> None:
        path = put(tmp_path, "a.csv", 'x,y\n"a,b","say ""hi""\nthere"\n"",z\n')
        frame = read_delimited(path, faults, quoting=True)
        assert frame is not None
        assert frame.select("x", "y", ROW).rows() == [("a,b", 'say "hi"\nthere', 1), (None, "z", 2)]

    def test_quoted_rows_beyond_one_chunk_stay_in_order(self, tmp_path: Path, faults: FaultLog) -> None:
        n = 45_000
        text = "x,y\n" + "".join(f'"{i}",a\n' if i % 3 else f"{i}\n" for i in range(n))
        frame = read_delimited(put(tmp_path, "a.csv", text), faults, quoting=True)
        assert frame is not None
        kept = [i for i in range(n) if i % 3]
        assert frame["x"].cast(pl.Int64).to_list() == kept
        assert frame[ROW].to_list() == [i + 1 for i in kept]
        assert faults.n_faults == n - len(kept)

    def test_a_long_quoted_field_is_read_and_the_global_limit_restored(self, tmp_path: Path, faults: FaultLog) -> None:
        before = csv.field_size_limit()
        frame = read_delimited(put(tmp_path, "a.csv", f'x,y\n1,"{"z" * 500_000}"\n'), faults, quoting=True)
        assert frame is not None
        assert frame["y"].str.len_chars().to_list() == [500_000]
        assert csv.field_size_limit() == before

    def test_a_misplaced_quote_costs_its_row_only(self, tmp_path: Path, faults: FaultLog) -> None:
        frame = read_delimited(put(tmp_path, "a.csv", 'x,y\n1,"a"b\n2,"c"\n'), faults, quoting=True)
        assert frame is not None
        assert frame["x"].to_list() == ["2"]
        assert [(fault.row, fault.problem) for fault in faults.faults] == [
            (1, "the row cannot be split into fields: ',' expected after '\"'")
        ]

    def test_an_index_without_a_name_and_reserved_names_are_noted(self, tmp_path: Path, faults: FaultLog) -> None:
        frame = read_delimited(put(tmp_path, "a.csv", f",x,{ROW}\n0,a,7\n1,b,8\n"), faults, quoting=True)
        assert frame is not None
        assert frame.columns == ["x", ROW, FILE]
        assert frame[ROW].to_list() == [1, 2]
        assert dict(faults.notes) == {"columns of a.csv without a usable name, left out": 2}

    def test_a_single_column_is_no_wrong_separator(self, tmp_path: Path, faults: FaultLog) -> None:
        frame = read_delimited(put(tmp_path, "a.csv", "x\n1\n2\n"), faults, quoting=True)
        assert frame is not None
        assert frame["x"].to_list() == ["1", "2"]

    def test_quoting_needs_one_character(self, tmp_path: Path, faults: FaultLog) -> None:
        with pytest.raises(ValueError, match="separator of one character, not '::'"):
            read_delimited(put(tmp_path, "a.dat", "x"), faults, separator="::", quoting=True)

    def test_many_ragged_rows_are_counted_and_three_shown(self, tmp_path: Path, faults: FaultLog) -> None:
        assert read_delimited(put(tmp_path, "a.csv", "x,y\n" + "1;2\n" * 900), faults, quoting=False) is None
        assert (len(faults.faults), faults.n_faults) == (3, 900)


class TestReadJsonLines:
    def test_rows_are_lines_of_the_file(self, tmp_path: Path, faults: FaultLog) -> None:
        records = read_json_lines(put(tmp_path, "a.jsonl", '{"x": 1}\n\nnonsense\n{"x": "é"}\n'), faults)
        assert records == [{"x": 1, ROW: 1}, {"x": "é", ROW: 4}]
        assert [fault.row for fault in faults.faults] == [3]

    def test_a_pair_of_surrogates_is_one_character(self, tmp_path: Path, faults: FaultLog) -> None:
        assert read_json_lines(put(tmp_path, "a.jsonl", '{"x": "\\ud83d\\ude00"}\n'), faults) == [{"x": "😀", ROW: 1}]

    @pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
    def test_literals_that_json_lacks_are_faults(self, tmp_path: Path, faults: FaultLog, literal: str) -> None:
        assert read_json_lines(put(tmp_path, "a.jsonl", f'{{"x": {literal}}}\n'), faults) == []
        assert f"the literal {literal} is not allowed" in str(faults.faults[0])

    def test_a_number_of_ten_thousand_digits_is_a_fault(self, tmp_path: Path, faults: FaultLog) -> None:
        assert read_json_lines(put(tmp_path, "a.jsonl", f'{{"x": {"9" * 10_000}}}\n'), faults) == []
        assert "the line is not valid JSON" in str(faults.faults[0])


class TestReadParquet:
    def test_dtypes_stay_and_places_are_added(self, tmp_path: Path, faults: FaultLog) -> None:
        pl.DataFrame({"x": [1.5, 2.5], ROW: ["mine", "yours"]}).write_parquet(tmp_path / "a.parquet")
        frame = read_parquet(tmp_path / "a.parquet", faults)
        assert frame is not None
        assert frame.rows() == [(1.5, 1, "a.parquet"), (2.5, 2, "a.parquet")]


class TestRecords:
    def frame(self, faults: FaultLog, **columns: list[object]) -> pl.DataFrame:
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return records_frame([row | {ROW: i} for i, row in enumerate(rows, start=1)], "a.jsonl", faults)

    def test_types_of_columns(self, faults: FaultLog) -> None:
        frame = self.frame(
            faults,
            whole=[1, None],
            number=[1, 2.5],
            flag=[True, None],
            words=[["a", 1], None],
            vector=[[1, 2.5], [3, 4]],
            categories=[[1, 2], ["b"]],
            nothing=[None, None],
            long_id=[2**63, None],
        )
        assert frame.drop(ROW, FILE).to_dict(as_series=False) == {
            "whole": [1, None],
            "number": [1.0, 2.5],
            "flag": [True, None],
            "words": [["a", "1"], None],
            "vector": [[1.0, 2.5], [3.0, 4.0]],
            "categories": [["1", "2"], ["b"]],
            "nothing": [None, None],
            "long_id": ["9223372036854775808", None],
        }
        assert faults.faults == []

    def test_ids_of_mixed_types_become_text(self, faults: FaultLog) -> None:
        assert self.frame(faults, item_id=[1, "1b"])["item_id"].to_list() == ["1", "1b"]

    def test_objects_are_left_out_with_a_note(self, faults: FaultLog) -> None:
        assert "size" not in self.frame(faults, item_id=["a"], size=[{"width": 3}]).columns
        assert dict(faults.notes) == {"columns of a.jsonl with objects in them, left out": 1}

    def test_keys_that_a_line_lacks_are_null(self, tmp_path: Path, faults: FaultLog) -> None:
        put(tmp_path, "items.jsonl", json.dumps({"item_id": "a"}) + "\n" + json.dumps({"item_id": "b", "x": 2}) + "\n")
        put(tmp_path, "interactions.csv", "user_id\nu\n")
        raw = TablesReader().read(tmp_path, DataConfig(), faults)
        assert raw.items is not None
        assert raw.items["x"].to_list() == [None, 2]

"""Damaged bytes: whatever a file holds, validation ends in a report."""

import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.datasets import validate_folder

FILES = {
    "items.csv": b'item_id,title,categories,created_at,x\ni1,"So, cks",a|b,2020-01-01,1\ni2,Hats,"[""a""]",,2\n',
    "items.jsonl": b'{"item_id": "i1", "title": "Socks", "x": 1.5}\n{"item_id": 2, "categories": ["a"]}\n',
    "interactions.csv": b"user_id,item_id,timestamp,event,value\nu1,i1,2024-03-01,click,\nu2,i2,1709287200,rating,4\n",
    "interactions.jsonl": b'{"user_id": "u1", "item_id": "i1", "timestamp": 1709287200, "event": "click"}\n',
    "impressions.csv": b"request_id,user_id,timestamp,item_id,position,clicked\nr1,u1,2024-03-01,i1,1,1\n",
}
TOKENS = (
    *(b'"', b",", b"\n", b"\r", b"\0", b"\xff", b"{", b"}", b"[", b"]", b";", b"\t", b" ", b"\xef\xbb\xbf"),
    *(b"nan", b"inf", b"-1", b"1e999", b"null", b"true", b"\\ud800", b"_row", b"__raw", b"item_id", b"9" * 30),
)


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, bytes]:
    name = draw(st.sampled_from(sorted(FILES)))
    data = FILES[name]
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        cut = draw(st.integers(0, 8))
        data = data[:start] + draw(st.sampled_from(TOKENS) | st.binary(max_size=3)) + data[start + cut :]
    return name, data


@settings(max_examples=150, deadline=None)
@given(
    damaged(),
    st.sampled_from(["items.csv", "items.jsonl"]),
    st.sampled_from(["interactions.csv", "interactions.jsonl"]),
)
def test_damage_ends_in_a_report(damage: tuple[str, bytes], items: str, interactions: str) -> None:
    name, data = damage
    stems = {file.split(".")[0]: file for file in (items, interactions, name)}
    with tempfile.TemporaryDirectory() as folder:
        for file in stems.values():
            (Path(folder) / file).write_bytes(data if file == name else FILES[file])
        report = validate_folder(folder, "tables")
    assert report.is_sound == (report.summary is not None)
    assert all(fault.problem and fault.remedy for fault in report.faults)
    assert json.loads(json.dumps(report.to_dict()))["n_faults"] == report.n_faults

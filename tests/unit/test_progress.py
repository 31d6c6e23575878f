"""What a training says of itself while it goes on."""

import pytest

from training.progress import how_it_ended


@pytest.mark.parametrize(
    ("stopped_because", "time_was_short", "said"),
    [
        ("epochs", False, "  net: ended by epochs"),
        ("not trained", False, "  net: not trained"),
        ("time", True, "  net: ended by time; raise net.seconds to let it learn longer"),
        ("patience", True, "  net: ended by patience, hurried by time; raise net.seconds to let it learn longer"),
    ],
)
def test_a_training_says_how_it_ended_and_what_gives_it_more_time(
    stopped_because: str, time_was_short: bool, said: str
) -> None:
    assert how_it_ended("net", stopped_because, "net.seconds", time_was_short=time_was_short) == said

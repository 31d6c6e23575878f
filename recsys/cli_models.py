"""`recsys compare`, `promote` and `rollback`: which version is served."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recsys.cli_output import AsJson, ModelName, TrackingUri, say, say_json, say_table

if TYPE_CHECKING:
    from recsys.registry import ModelRef


def compare(
    a: Annotated[str, typer.Argument(help="Alias or version number.")] = "champion",
    b: Annotated[str, typer.Argument(help="Alias or version number.")] = "challenger",
    *,
    every_system: Annotated[
        bool, typer.Option("--every-system", help="Show the single sources too, not only the full system.")
    ] = False,
    model_name: ModelName = "recsys",
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Show the test metrics of two versions side by side.

    Each was measured on the test window of its own training. The intervals are of each version alone: overlapping
    ones do not show that two versions are equal.
    """
    from recsys.registry import Registry

    registry = Registry(tracking_uri, model_name)
    first, second = registry.resolve(a), registry.resolve(b)
    table = registry.compare(first.version, second.version, "test/" if every_system else "test/full/")
    rows = table.to_dicts()
    if as_json:
        say_json({"a": _values(first), "b": _values(second), "metrics": rows})
        return
    for letter, ref in (("a", first), ("b", second)):
        say(f"{letter}: {_title(ref)}")
    if first.tags.get("data") != second.tags.get("data"):
        say("trained on different data: the figures do not compare")
    say()
    cells = [
        [
            row["metric"].removeprefix("test/"),
            _interval(row["a"], row["a_lo"], row["a_hi"]),
            _interval(row["b"], row["b_lo"], row["b_hi"]),
            "" if row["difference"] is None else f"{row['difference']:+.3f}",
        ]
        for row in rows
    ]
    say_table(["metric", "a", "b", "b - a"], cells, numbers=["b - a"])


def promote(
    which: Annotated[str, typer.Argument(metavar="[VERSION]", help="Version number or alias.")] = "challenger",
    *,
    model_name: ModelName = "recsys",
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Make a version the champion, the one that is served. `recsys rollback` undoes it."""
    from recsys.registry import Registry

    _say_champion(Registry(tracking_uri, model_name).promote(which), as_json=as_json)


def rollback(*, model_name: ModelName = "recsys", tracking_uri: TrackingUri = None, as_json: AsJson = False) -> None:
    """Make the previous champion champion again. Repeated, it goes back further."""
    from recsys.registry import Registry

    _say_champion(Registry(tracking_uri, model_name).rollback(), as_json=as_json)


def _say_champion(ref: "ModelRef", *, as_json: bool) -> None:
    if as_json:
        say_json(_values(ref))
    else:
        say(
            f"{_title(ref)} is the champion now; servers that follow this alias look for it every RECSYS_POLL_S "
            "seconds (15 unless set)"
        )


def _title(ref: "ModelRef") -> str:
    facts = [*ref.aliases]
    if "data" in ref.tags:
        facts.append(f"trained on {ref.tags['data']}")
    if ref.created_at is not None:
        facts.append(f"{ref.created_at:%Y-%m-%d %H:%M} UTC")
    return f"{ref.name} version {ref.version}" + (f" ({', '.join(facts)})" if facts else "")


def _values(ref: "ModelRef") -> dict[str, Any]:
    return asdict(ref)


def _interval(mean: float | None, lo: float | None, hi: float | None) -> str:
    if mean is None:
        return ""
    return f"{mean:.3f}" if lo is None or hi is None else f"{mean:.3f} [{lo:.3f}, {hi:.3f}]"

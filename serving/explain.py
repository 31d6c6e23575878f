"""Why an item is in a slate: what each group of features added to its score, and the item of the history behind it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from recsys.models.ranker import Ranker

Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

BASE: Final = "base"
GROUPS: Final = ("text", "collaborative", "session", "popularity", "item", "user")
# The sequence model is fitted on what users did one after the other, as factors and co-visitation are.
_COUNTED_AS: Final[Mapping[str, str]] = {"sequence": "collaborative"}

MIN_COSINE: Final = 0.5
MIN_TRANSITION: Final = 0.2
_MAX_HISTORY: Final = 100
_VERBS: Final[Mapping[str, str]] = {
    "view": "viewed",
    "click": "opened",
    "read": "read",
    "watch": "watched",
    "listen": "listened to",
    "play": "played",
    "like": "liked",
    "comment": "commented on",
    "share": "shared",
    "save": "saved",
    "cart": "put in the cart",
    "purchase": "bought",
    "rating": "rated",
}


@dataclass(frozen=True)
class Contribution:
    """What a group of features, or the base, added to an item's score, in the ranker's units."""

    group: str
    contribution: float


class EvidenceKind(StrEnum):
    """How an item of the history is near: alike in text, often followed by the other; or no history, but popular."""

    TEXT = "text"
    COVISITATION = "covisitation"
    POPULARITY = "popularity"


@dataclass(frozen=True)
class Evidence:
    """The best single reason for an item. item_id, title: of the history's item, None for popularity.

    strength: 0 to 1; the cosine of the texts, or the transition's weight relative to the strongest one from the same
    item; 1 for popularity. event: kind of what the user did with it, None where unknown. sentence: English.
    """

    kind: EvidenceKind
    strength: float
    sentence: str
    item_id: str | None = None
    title: str | None = None
    event: str | None = None


def explain_scores(
    ranker: Ranker, rows: Float32, feature_groups: Mapping[str, str]
) -> tuple[tuple[Contribution, ...], ...]:
    """Return for each feature row what adds up to its score: the groups in the order of `GROUPS`, then the base.

    Args:
        rows: float32 `(n, n_features)`, those of the slate: TreeSHAP costs a hundred times what a score does.
        feature_groups: group by feature, in column order, as `RankingPath.feature_groups`; `sequence` is counted as
            collaborative. Groups without any feature are left out.
    """
    contributions = ranker.contributions(rows)
    groups = np.asarray([_COUNTED_AS.get(group, group) for group in feature_groups.values()])
    names = [name for name in GROUPS if name in groups]
    names += sorted(set(groups.tolist()) - set(names))
    sums = [contributions[:, :-1][:, groups == name].sum(axis=1) for name in names] + [contributions[:, -1]]
    table = np.column_stack(sums).tolist()
    return tuple(
        tuple(Contribution(name, value) for name, value in zip([*names, BASE], row, strict=True)) for row in table
    )


def find_evidence(
    item_idx: Int32,
    history_idx: Int32,
    history_kinds: Sequence[str | None],
    embeddings: Float32,
    transitions: sp.csr_matrix,
    describe: Callable[[int], tuple[str, str]],
    *,
    is_popular: Bool,
) -> tuple[Evidence | None, ...]:
    """Return the best reason for each item of a slate, None where nothing is near.

    Of the last 100 entries of the history the one whose text has the largest cosine (0.5 at least) or whose
    transition to the item is the strongest (0.2 of its strongest at least) is taken, whichever of the two numbers is
    larger, the transition and then the later entry where they are equal. An item is no reason for itself. Without a
    history, items that popularity proposed have that.

    Args:
        item_idx: int32 `(n,)`, the slate.
        history_idx: int32 `(h,)`, oldest first. history_kinds: kind of event of each, None where unknown.
        embeddings: float32 `(n_items, d)`, unit rows; rows of zeros where an item has no text.
        transitions: CSR, sorted indices, as of `Covisitation`; items behind its last row have none.
        describe: id and title of a row of the catalogue.
        is_popular: bool `(n,)`, whether popularity proposed the item.
    """
    if not len(history_idx):
        reason = Evidence(EvidenceKind.POPULARITY, 1.0, "Popular right now")
        return tuple(reason if is_one else None for is_one in is_popular.tolist())
    # The latest first: of equal ones the first is found.
    recent = history_idx[::-1][:_MAX_HISTORY]
    kinds = list(history_kinds)[::-1][:_MAX_HISTORY]
    is_other = recent[:, None] != item_idx[None, :]  # (h, n)
    cosine = np.where(is_other, embeddings[recent] @ embeddings[item_idx].T, 0.0).astype(np.float64)
    transition = np.where(is_other, _relative_transitions(transitions, recent, item_idx), 0.0)
    found: list[Evidence | None] = []
    for place in range(len(item_idx)):
        by_text, by_transition = int(np.argmax(cosine[:, place])), int(np.argmax(transition[:, place]))
        text, follows = float(cosine[by_text, place]), float(transition[by_transition, place])
        if follows >= MIN_TRANSITION and (follows >= text or text < MIN_COSINE):
            source, kind, strength = by_transition, EvidenceKind.COVISITATION, follows
        elif text >= MIN_COSINE:
            source, kind, strength = by_text, EvidenceKind.TEXT, text
        else:
            found.append(None)
            continue
        item_id, title = describe(int(recent[source]))
        sentence = sentence_of(title, kinds[source])
        found.append(Evidence(kind, min(strength, 1.0), sentence, item_id, title, kinds[source]))
    return tuple(found)


def sentence_of(title: str, event: str | None) -> str:
    """Return the reason in English, with the verb of the kind of event; neutral where there is none for it."""
    verb = _VERBS.get(event or "")
    return f"Because you {verb} “{title}”" if verb else f"Because of “{title}”"


def _relative_transitions(transitions: sp.csr_matrix, before: Int32, after: Int32) -> Float64:
    """Return transition weights over the largest of each row, float64 `(len(before), len(after))`, in [0, 1]."""
    result = np.zeros((len(before), len(after)))
    for row, item in enumerate(before.tolist()):
        if item >= transitions.shape[0]:
            continue
        start, stop = transitions.indptr[item], transitions.indptr[item + 1]
        if start == stop:
            continue
        columns, weights = transitions.indices[start:stop], transitions.data[start:stop]
        at = np.minimum(np.searchsorted(columns, after), len(columns) - 1)
        largest = float(weights.max())
        if largest > 0.0:
            result[row] = np.where(columns[at] == after, weights[at] / largest, 0.0)
    return result

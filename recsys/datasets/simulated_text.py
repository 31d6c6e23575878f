"""The words of the simulated catalogue: titles, descriptions and comments from topic vocabularies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import yaml

Int32 = npt.NDArray[np.int32]

NO_SUBTOPIC: Final = -1
_RESOURCE: Final = "vocabulary.yaml"
_MIXED_TITLE_SHARE: Final = 0.5
_SAME_TOPIC_BRIDGE_SHARE: Final = 0.5
_SENTENCES: Final = ((1, 0.15), (2, 0.40), (3, 0.45))  # how many sentences a description has, and how often
_TITLE_TRIES: Final = 5


@dataclass(frozen=True)
class Subtopic:
    """One narrow subject and its phrases; see the head of vocabulary.yaml for their grammar."""

    name: str
    topic: str
    style: str
    readers: str
    things: tuple[str, ...]
    tasks: tuple[str, ...]
    problems: tuple[str, ...]
    facts: tuple[str, ...]


@dataclass(frozen=True)
class Vocabulary:
    """Everything that texts and names are drawn from.

    topic_of_subtopic: int32 `(n_subtopics,)`, rows of `topic_names`.
    words: the plain lists of the file by name (`first_names`, `audiences`, `openings`, …).
    titles: templates by the style of the topic. comments: templates by `positive` and `negative`.
    """

    topic_names: tuple[str, ...]
    subtopics: tuple[Subtopic, ...]
    topic_of_subtopic: Int32
    words: Mapping[str, tuple[str, ...]]
    titles: Mapping[str, tuple[str, ...]]
    comments: Mapping[str, tuple[str, ...]]

    @property
    def subtopic_names(self) -> tuple[str, ...]:
        return tuple(subtopic.name for subtopic in self.subtopics)

    @property
    def n_author_names(self) -> int:
        """How many different names `author_names` can make."""
        return len(self.words["first_names"]) * len(self.words["last_names"])


@cache
def load_vocabulary() -> Vocabulary:
    """Return the vocabulary that is packaged beside this module, in the order of its file."""
    text = files("recsys.datasets").joinpath(_RESOURCE).read_text(encoding="utf-8")
    raw: dict[str, Any] = yaml.safe_load(text)
    topics: dict[str, Any] = raw["topics"]
    subtopics = tuple(
        Subtopic(name, topic, body["style"], body["readers"], **{kind: tuple(words) for kind, words in phrases.items()})
        for topic, body in topics.items()
        for name, phrases in body["subtopics"].items()
    )
    topic_row = {topic: row for row, topic in enumerate(topics)}
    shared = tuple(raw["titles"]["any"])
    return Vocabulary(
        tuple(topics),
        subtopics,
        np.array([topic_row[subtopic.topic] for subtopic in subtopics], np.int32),
        {name: tuple(words) for name, words in raw.items() if isinstance(words, list)},
        {style: shared + tuple(own) for style, own in raw["titles"].items() if style != "any"},
        {tone: tuple(templates) for tone, templates in raw["comments"].items()},
    )


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _slots(vocabulary: Vocabulary, main: Subtopic, second: Subtopic | None, rng: np.random.Generator) -> dict[str, str]:
    """Return one phrase for every name that a template may hold; the things, tasks and problems differ."""
    things = rng.permutation(main.things)
    tasks = rng.permutation(main.tasks)
    problems = rng.permutation(main.problems)
    slots = {
        "name": main.name,
        "readers": main.readers,
        "thing": things[0],
        "thing2": things[1],
        "thing3": things[2],
        "task": tasks[0],
        "task2": tasks[1],
        "problem": problems[0],
        "problem2": problems[1],
        "audience": _pick(vocabulary.words["audiences"], rng),
        "number": _pick(vocabulary.words["numbers"], rng),
    }
    if second is not None:
        things_b = rng.permutation(second.things)
        slots |= {
            "name_b": second.name,
            "readers_b": second.readers,
            "thing_b": things_b[0],
            "thing_b2": things_b[1],
            "task_b": _pick(second.tasks, rng),
        }
    return slots


def _write_title(vocabulary: Vocabulary, main: Subtopic, second: Subtopic | None, rng: np.random.Generator) -> str:
    templates: Sequence[str] = vocabulary.titles[main.style]
    if second is not None and second.topic != main.topic and rng.random() < _MIXED_TITLE_SHARE:
        templates = vocabulary.words["mixed_titles"]
    return _capitalised(_pick(templates, rng).format_map(_slots(vocabulary, main, second, rng)))


def _write_description(
    vocabulary: Vocabulary, main: Subtopic, second: Subtopic | None, rng: np.random.Generator
) -> str:
    """Return one to three sentences: an opening or a fact, further ones, and a bridge to the second subtopic."""
    counts, shares = zip(*_SENTENCES, strict=True)
    n_sentences = int(rng.choice(counts, p=shares))
    ways = [_pick(vocabulary.words["openings"], rng), _pick(main.facts, rng), _pick(vocabulary.words["closings"], rng)]
    if n_sentences == 1:
        ways = [ways[int(rng.random() < 0.3)]]
    bridged = second is not None and (second.topic != main.topic or rng.random() < _SAME_TOPIC_BRIDGE_SHARE)
    sentences = ways[:n_sentences]
    if bridged and n_sentences > 1:
        sentences[-1] = _pick(vocabulary.words["bridges"], rng)
    slots = _slots(vocabulary, main, second, rng)
    return " ".join(_capitalised(sentence.format_map(slots)) for sentence in sentences)


def write_texts(
    vocabulary: Vocabulary, main: Int32, second: Int32, rng: np.random.Generator
) -> tuple[list[str], list[str]]:
    """Return a title and a description for every item.

    Titles are unique: one that no template leaves unused gets a part number.

    Args:
        vocabulary: what to write from.
        main: int32 `(n_items,)`, row of the subtopic that an item is mostly about.
        second: int32 `(n_items,)`, row of the other subtopic, or `NO_SUBTOPIC`.
        rng: source of the choice of templates and phrases.
    """
    titles: list[str] = []
    descriptions: list[str] = []
    used: set[str] = set()
    for row, row_b in zip(main.tolist(), second.tolist(), strict=True):
        subtopic = vocabulary.subtopics[row]
        other = None if row_b == NO_SUBTOPIC else vocabulary.subtopics[row_b]
        title = _write_title(vocabulary, subtopic, other, rng)
        for _ in range(_TITLE_TRIES):
            if title not in used:
                break
            title = _write_title(vocabulary, subtopic, other, rng)
        part, unnumbered = 2, title
        while title in used:
            title, part = f"{unnumbered}, part {part}", part + 1
        used.add(title)
        titles.append(title)
        descriptions.append(_write_description(vocabulary, subtopic, other, rng))
    return titles, descriptions


def write_comment(vocabulary: Vocabulary, subtopic: int, *, is_positive: bool, rng: np.random.Generator) -> str:
    """Return what a pleased or a disappointed reader says about an item of this subtopic."""
    template = _pick(vocabulary.comments["positive" if is_positive else "negative"], rng)
    return _capitalised(template.format_map(_slots(vocabulary, vocabulary.subtopics[subtopic], None, rng)))


def author_names(vocabulary: Vocabulary, n_authors: int, rng: np.random.Generator) -> list[str]:
    """Return different full names; `n_authors` is at most `n_author_names`."""
    first, last = vocabulary.words["first_names"], vocabulary.words["last_names"]
    pairs = rng.permutation(len(first) * len(last))[:n_authors]
    return [f"{first[pair // len(last)]} {last[pair % len(last)]}" for pair in pairs.tolist()]

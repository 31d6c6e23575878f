"""The sections of a configuration, one model per component; those of the networks are in `recsys.config_networks`.

Every field carries the sentence that the configuration reference in docs/ is generated from.
"""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from recsys.config_base import Count, Positive, Section, Share, Switch
from recsys.schema import DEFAULT_EVENT_WEIGHTS


class DataConfig(Section):
    """What is read, and how much disorder in it is tolerated."""

    event_weights: dict[str, float] = Field(
        default_factory=lambda: dict(DEFAULT_EVENT_WEIGHTS),
        description="Preference that one event of a kind expresses, relative to a click. Kinds not named weigh 1.",
    )
    learn_event_weights: bool = Field(
        default=False,
        description="Learn the weights of the kinds of event from the past, relative to a click; event_weights then "
        "only stands where the log is too small to tell.",
    )
    min_rating: float | None = Field(
        default=None, description="Ratings below this value are no positive behaviour and are left out. null keeps all."
    )
    sentiment: Switch = Field(
        default="auto",
        description="Whether ratings and texts of reviews and comments weigh by what they say, so that a complaint is "
        "no liking. auto: where there are ratings with text; the texts take part where they tell ratings better than "
        "no text does. on: always, and fail where there is nothing to learn from.",
    )
    rating_scale: tuple[float, float] | None = Field(
        default=None,
        description="Lowest and highest rating there is, for data.sentiment; null takes those seen before the test. "
        "Needed beside min_rating, which hides the lowest.",
    )
    complaint_cost: Positive | None = Field(
        default=None,
        description="How many likings lost weigh as much as one complaint taken for a liking, when texts without a "
        "rating are read. null takes the root of the odds of high ratings in the log, at least 1.",
    )
    max_review_texts: Count = Field(
        default=10_000,
        description="Texts of reviews and comments that are read at most, the newest; beyond them a review weighs by "
        "its rating alone, a comment by its kind.",
    )
    items_file: str | None = Field(
        default=None,
        description="File or folder of items that stand beside those of a database, which win; for training from a "
        "database whose catalogue lies elsewhere.",
    )
    unknown_items: Literal["drop", "keep"] = Field(
        default="drop",
        description="What becomes of behaviour on items that the items table lacks: drop and count the rows, or keep "
        "the items without text.",
    )
    max_unknown_item_share: Share = Field(
        default=0.10, description="Share of rows with an unknown item above which loading stops."
    )
    max_duplicate_share: Share = Field(
        default=0.50,
        description="Share of exactly repeated interactions above which loading stops; repeats are dropped.",
    )
    text_fields: tuple[str, ...] = Field(
        default=("title", "categories", "*", "description"),
        description="Item columns that make up the item's text, in order; `*` stands for all text attributes.",
    )
    use_impressions: bool = Field(
        default=True,
        description="Whether lists that were shown are learned from where the data has them. false learns from "
        "interactions alone, clicks in such lists included: for a service that has shown little yet, with a long "
        "history from elsewhere.",
    )
    behaviors_file: str | None = Field(
        default=None, description="MIND only: the file of impressions to read, where the folder holds several."
    )

    @field_validator("rating_scale")
    @classmethod
    def _is_range(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] >= value[1]:
            raise ValueError(f"the lowest rating {value[0]} is not below the highest, {value[1]}")
        return value


class SplitConfig(Section):
    """Which interactions models are fitted on, which label the ranker, and which test it."""

    kind: Literal["time", "leave_last"] = Field(
        default="time",
        description="`time`: windows of the calendar. `leave_last`: the last interactions of every user, for logs "
        "without a usable common clock.",
    )
    test_from: str | None = Field(
        default=None,
        description="time: moment (ISO 8601, UTC) at which the test begins; null takes test_share instead.",
    )
    test_share: Share = Field(default=0.10, description="time: share of the newest feedback that tests.")
    valid_share: Share = Field(default=0.05, description="time: share before it that stops the training early.")
    label_share: Share = Field(
        default=0.20, description="time: share before that whose outcomes label the ranker's rows."
    )
    horizon: Count = Field(
        default=1, description="How many of a user's next interactions count as relevant to a request."
    )
    n_test: Count = Field(default=1, description="leave_last: last interactions of each user that test.")
    n_valid: Count = Field(default=1, description="leave_last: interactions before them that stop the training early.")
    n_label: Count = Field(
        default=10, description="leave_last: interactions before those that label the ranker's rows."
    )


class CollaborativeConfig(Section):
    """Implicit ALS."""

    factors: Count = Field(default=64, description="Length of user and item factors.")
    iterations: Count = Field(default=15, description="ALS sweeps.")
    regularization: Positive = Field(default=0.05, description="L2 on the factors.")
    alpha: Positive = Field(default=10.0, description="Confidence of one interaction of weight 1 over none.")


class CovisitationConfig(Section):
    """Directed item-to-item transitions."""

    window: Count = Field(default=10, description="How many following interactions of a user count as a transition.")
    decay: Share = Field(default=0.8, description="Weight lost per further step between the two items.")
    history_length: Count = Field(default=10, description="How many latest history items vote for what comes next.")
    history_decay: Share = Field(default=0.8, description="Weight of a vote per step back in the history.")
    max_neighbours: Count = Field(default=300, description="Strongest transitions kept per item.")
    normalisation: Share = Field(
        default=0.3, description="Exponent of the target's frequency that transitions are divided by."
    )


class EaseConfig(Section):
    """Which items belong to a history: a linear item model in closed form (EASE)."""

    regularization: Positive = Field(default=300.0, description="L2 on the item-to-item weights.")
    nearness: Share = Field(
        default=0.5,
        description="How much of a pair's weight depends on how near the two lie in a user's history; 0 is plain EASE.",
    )
    nearness_steps: Positive = Field(
        default=4.0, description="Interactions between two items over which their nearness falls to about a third."
    )
    max_items: Count = Field(
        default=8_000,
        description="Items that take part at most, the most frequent ones: cost grows with the cube of their number, "
        "memory with its square.",
    )
    min_interactions: Count = Field(default=3, description="Interactions of an item from which it takes part.")
    max_neighbours: Count = Field(default=300, description="Strongest weights kept per item.")


class NextItemConfig(Section):
    """Which item comes next: a linear transition model in closed form (SLIT)."""

    regularization: Positive = Field(default=150.0, description="L2 on the item-to-next-item weights.")
    window: Count = Field(default=30, description="Latest items of a history that are read.")
    fading: Annotated[float, Field(ge=0)] = Field(
        default=0.7, description="Exponent of an item's weight, steps back to the power of minus this."
    )
    max_items: Count = Field(default=8_000, description="Items that take part at most; see `ease`.")
    min_interactions: Count = Field(default=3, description="Interactions of an item from which it takes part.")
    max_neighbours: Count = Field(default=300, description="Strongest weights kept per item.")


class ColdConfig(Section):
    """Placing items without behaviour into the collaborative space."""

    regularization: Positive = Field(
        default=30.0, description="Ridge penalty of the map from content onto item factors."
    )
    text_scale: Positive = Field(
        default=1.0,
        description="Length of an item's text in the map, against that of all its attributes together; the shorter, "
        "the less the text says. Without attributes it has no effect.",
    )
    min_interactions: Count = Field(default=5, description="Interactions from which an item's own factors are used.")
    max_attribute_values: Count = Field(default=6_000, description="Most frequent attribute values that enter the map.")


class RetrievalConfig(Section):
    """Candidates."""

    n_candidates: Count = Field(
        default=300, description="Candidates per request that the ranker sees, over all sources."
    )
    per_source: Count = Field(default=150, description="Candidates that each source may propose.")
    sources: tuple[Literal["als", "ease", "next_item", "sequence", "covisitation", "text", "popular", "cold"], ...] = (
        Field(
            default=("als", "ease", "next_item", "sequence", "covisitation", "text", "popular", "cold"),
            min_length=1,
            description="Candidate sources in use.",
        )
    )
    exact_below: Count = Field(default=50_000, description="Catalogue size below which vector search is exact.")


class FeatureConfig(Section):
    """Ranking features."""

    max_history: Count = Field(default=200, description="Latest interactions of a user that features read.")
    session_gap_minutes: Positive = Field(default=30.0, description="Pause after which a new session begins.")
    bucket_minutes: Annotated[float, Field(ge=1.0)] = Field(
        default=60.0, description="Width of the time buckets of all counters."
    )
    windows_hours: tuple[Positive, ...] = Field(
        default=(6.0, 24.0, 168.0, 720.0), min_length=1, description="Windows of the popularity counters, in hours."
    )
    groups: tuple[Literal["text", "collaborative", "sequence", "session", "popularity", "item", "user"], ...] = Field(
        default=("text", "collaborative", "sequence", "session", "popularity", "item", "user"),
        min_length=1,
        description="Feature groups in use.",
    )
    without_columns: tuple[str, ...] = Field(
        default=(), description="Columns of these groups to leave out, by the names that the feature importance shows."
    )


class RankerConfig(Section):
    """LightGBM lambdarank."""

    rows: Literal["auto", "impressions", "retrieved", "held_out", "cold"] = Field(
        default="auto",
        description="What the ranker learns to order: items that were shown, candidates that the sources retrieve for "
        "the next interactions, or for interactions held out at random (held_out), items whose behaviour is hidden "
        "(cold, see pseudo_cold_share), or `auto`: shown items where there are impressions, else retrieved ones.",
    )
    objective: Literal["lambdarank", "binary"] = Field(default="lambdarank", description="LightGBM objective.")
    n_trees: Count = Field(default=600, description="Boosting rounds at most.")
    learning_rate: Positive = Field(default=0.05, description="Shrinkage.")
    num_leaves: Annotated[int, Field(ge=2)] = Field(default=31, description="Leaves per tree.")
    min_data_in_leaf: Count = Field(default=100, description="Rows per leaf at least.")
    feature_fraction: Share = Field(default=0.7, description="Share of the features each tree may use.")
    bagging_fraction: Share = Field(default=0.8, description="Share of the rows each tree is grown on.")
    lambda_l2: Annotated[float, Field(ge=0)] = Field(default=5.0, description="L2 on leaf values.")
    truncation: Count = Field(default=20, description="lambdarank: how deep the pairs reach into the list.")
    n_seeds: Count = Field(
        default=1,
        description="Boosters with different seeds whose scores are averaged; steadier where labels are few.",
    )
    early_stopping: Count = Field(default=50, description="Rounds without a better validation metric before stopping.")
    max_requests: Count = Field(default=30_000, description="Training requests at most; the newest are kept.")
    negatives_per_request: Count = Field(
        default=100, description="retrieved, cold: candidates kept beside the relevant ones."
    )
    position_bias: Annotated[float, Field(ge=0)] = Field(
        default=0.1,
        description="Regularisation of the position-bias estimate; used where impressions carry positions and the "
        "objective is lambdarank.",
    )
    pseudo_cold_share: Share = Field(
        default=0.0,
        description="Share of items whose behaviour is hidden from what feeds the training rows, so that the ranker "
        "learns how items without behaviour are to be judged. With rows cold as many others are hidden from all that "
        "is measured, and the test asks about those; below 0.5 then.",
    )
    graded: bool = Field(
        default=False,
        description="lambdarank: what was wanted counts the weight of the strongest event on it (data.event_weights), "
        "so that an item that was bought comes before one that was only clicked; false counts all alike.",
    )

    @model_validator(mode="after")
    def _grades_need_lambdarank(self) -> "RankerConfig":
        if self.graded and self.objective != "lambdarank":
            raise ValueError("graded needs objective lambdarank; binary knows no grades: set one of the two otherwise")
        return self


class EvaluationConfig(Section):
    """How the trained system is measured."""

    k: Count = Field(default=10, description="Cut-off of the ranking metrics.")
    max_requests: Count = Field(default=3_000, description="Test requests at most, drawn at random.")
    n_bootstrap: Count = Field(default=1_000, description="Bootstrap samples behind every interval.")


class TrackingConfig(Section):
    """MLflow."""

    uri: str | None = Field(
        default=None, description="Tracking URI; null takes MLFLOW_TRACKING_URI, else sqlite:///mlflow.db."
    )
    experiment: str = Field(default="recsys", description="Experiment that holds the runs.")
    model_name: str = Field(default="recsys", description="Registered model that the bundles become versions of.")

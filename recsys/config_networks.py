"""The sections of the configuration about networks: the text encoder and the sequence model."""

from typing import Annotated, Literal

from pydantic import Field

from recsys.config_base import Count, Positive, Section, Share, Switch


class EncoderConfig(Section):
    """The text encoder and its fine-tuning on behaviour."""

    kind: Literal["pretrained", "small", "auto"] = Field(
        default="auto",
        description="`pretrained` starts from `model`; `small` trains an encoder from the catalogue's own text; "
        "`auto` takes `small` where most of the catalogue's letters are outside the Latin script, else `pretrained`. "
        "Where no item has any text, there is no encoder; but unless it is `small`, one reads reviews that are to be "
        "weighed (data.sentiment).",
    )
    model: str = Field(
        default="sentence-transformers/all-MiniLM-L6-v2",
        description="Pretrained encoder: a folder, a SentenceTransformer name in the local cache, or one on the hub.",
    )
    max_length: Annotated[int, Field(ge=8, le=8192)] = Field(
        default=128, description="Tokens of an item's text that are read; the rest is cut off."
    )
    objective: Literal["auto", "choices", "contrastive"] = Field(
        default="auto",
        description="What fine-tuning learns. `choices`: who chose which item, and so how many did; serves items "
        "without behaviour best. `contrastive`: which items the same people turned to one after the other, and what "
        "was shown beside and passed over. `auto` takes `contrastive` where there are impressions, else `choices`.",
    )
    tune: Literal["full", "top_layers", "lora", "none"] = Field(
        default="top_layers", description="What fine-tuning changes. A `small` encoder is always tuned in full."
    )
    n_top_layers: Count = Field(default=2, description="top_layers: how many of the last transformer layers are tuned.")
    lora_rank: Count = Field(default=8, description="lora: rank of the adapters.")
    epochs: Annotated[int, Field(ge=0)] = Field(
        default=3, description="Passes over the pairs or items at most; early stopping may end sooner."
    )
    max_pairs: Count = Field(default=6_000, description="Training pairs, or items, drawn at most per epoch.")
    max_train_seconds: Positive = Field(
        default=300.0, description="Fine-tuning ends after the step that passes this time."
    )
    batch_size: Count = Field(
        default=64, description="Pairs, or items, per step; the others of the batch are the negatives."
    )
    gradient_accumulation: Count = Field(default=1, description="Steps whose gradients are added up before an update.")
    learning_rate: Positive = Field(default=5e-5, description="Peak learning rate of AdamW.")
    warmup_share: Share = Field(
        default=0.1, description="Share of the steps over which the learning rate rises to its peak."
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(default=0.01, description="Decoupled weight decay (L2).")
    dropout: Share | None = Field(default=None, description="Dropout in the encoder; null keeps the pretrained value.")
    temperature: Positive = Field(default=0.05, description="Temperature of the contrastive softmax.")
    popularity_correction: Annotated[float, Field(ge=0)] = Field(
        default=1.0, description="Strength of the log-frequency correction of in-batch negatives; 0 switches it off."
    )
    pair_window: Count = Field(
        default=5, description="Two items make a pair when at most this many interactions lie between."
    )
    patience: Count = Field(
        default=2, description="Evaluations without a better held-out loss after which tuning stops."
    )
    evaluations_per_epoch: Count = Field(default=2, description="How often the held-out loss is taken in an epoch.")
    mixed_precision: Switch = Field(
        default="auto", description="bfloat16 autocast: auto uses it where the processor or GPU has it natively."
    )
    device: str = Field(default="auto", description="`auto`, `cpu`, `cuda` or `cuda:N`.")
    small_vocabulary: Annotated[int, Field(ge=100)] = Field(
        default=30_000, description="small: size of the learned vocabulary."
    )
    small_embedding_size: Annotated[int, Field(ge=8)] = Field(
        default=256, description="small: width of the embeddings."
    )
    small_epochs: Annotated[int, Field(ge=0)] = Field(
        default=3, description="small: passes of the title-against-description pre-training."
    )


class SequenceConfig(Section):
    """A small transformer over the history."""

    embedding_size: Annotated[int, Field(ge=8)] = Field(default=64, description="Width of the network.")
    n_layers: Count = Field(default=2, description="Transformer blocks.")
    n_heads: Count = Field(default=2, description="Attention heads; they divide the width.")
    feedforward: Count = Field(default=2, description="Width of the inner layers, in widths of the network.")
    max_length: Annotated[int, Field(ge=2)] = Field(default=128, description="Latest history items that it reads.")
    dropout: Share = Field(default=0.2, description="Dropout in training.")
    epochs: Annotated[int, Field(ge=0)] = Field(
        default=12,
        description="Passes over the histories at most; early stopping may end sooner. The learning rate falls to "
        "nothing over them. 0 switches it off.",
    )
    max_train_seconds: Positive = Field(
        default=420.0, description="Training ends when this time is up; the learning rate falls sooner where it has to."
    )
    overlap: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.25,
        description="Long histories are cut into windows of max_length; share of a window that repeats the one before.",
    )
    item_dropout: Share = Field(
        default=0.1, description="Share of items that enter a training step by their text alone."
    )
    batch_tokens: Count = Field(
        default=2_048, description="Interactions per step, about; fewer where the log is small."
    )
    learning_rate: Positive = Field(default=3e-3, description="Peak learning rate of AdamW.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(default=0.01, description="Decoupled weight decay (L2).")
    warmup_share: Share = Field(default=0.1, description="Share of the steps over which the learning rate rises.")
    mixed_precision: Switch = Field(
        default="auto", description="bfloat16 in matrix products: auto uses it where the processor or GPU has it."
    )
    device: str = Field(default="auto", description="`auto`, `cpu`, `cuda` or `cuda:N`.")
    patience: Count = Field(default=3, description="Epochs without a better held-out loss after which it stops.")
    max_softmax_items: Count = Field(
        default=20_000, description="Catalogue size up to which the softmax is full; above, negatives are sampled."
    )
    n_negatives: Count = Field(default=2_000, description="Sampled softmax: negatives per step.")
    refit_epochs: Annotated[int, Field(ge=0)] = Field(
        default=2, description="Passes over the newer log when a fitted model is brought up to date."
    )

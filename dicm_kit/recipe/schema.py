"""Every key of a recipe, typed. The docstring under a field is its help text, everywhere.

A dataclass with a `kind` is a section that chooses a component by `name:`: its own fields and the fields of the
component's config are the section's keys; the config ends up in `config`.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from dicm_kit.data.options import GroupOptions, HistoryOptions, NegativeOptions, SplitOptions

FORMAT = 1
"""The recipe format; raised when a key changes its meaning."""
WARM_PARTS = ("images", "interest", "net", "numbers", "ids")
"""The words of `warm_start.parts`, beside `all` and single names."""


@dataclass(kw_only=True)
class DataSection:
    """Where the samples come from and how the dataset folder is made of them."""

    kind: ClassVar[str] = "data_source"

    name: str
    """The data source; `dicm ls data_source` lists them. Its own keys stand beside the ones here."""
    config: Any = None
    out: str
    """The prepared dataset folder. It is made when it is not there."""
    workers: int = 0
    """Loader processes per rank; 0 reads in the training process."""
    group: GroupOptions = field(default_factory=GroupOptions)
    """Which impressions of a user share one history."""
    history: HistoryOptions = field(default_factory=HistoryOptions)
    """Which earlier clicks a history holds."""
    split: SplitOptions = field(default_factory=SplitOptions)
    """What is kept for validation and test."""
    negatives: NegativeOptions | None = None
    """What is drawn for a log that holds positives only; null: the log has negatives of its own."""
    drop_repeats: bool = False
    """Keep one impression of each user, item and UTC day: the first positive, else the first."""
    unlisted: Literal["error", "drop"] = "error"
    """Impressions whose item (or user) is not in the items (users) table: an error, or left out and counted."""
    lanes: int = 16
    """Slices the samples are spread over; at least as many as ranks will ever train. `batch_size` is a multiple."""
    partitions: int = 16
    """Slices the pictures are spread over."""
    min_count: int = 1
    """Ids seen less often in the training split become unknown."""
    forget_after_days: int | None = None
    """Ids not seen in the last so many UTC days of the training split become unknown, until they come back: a model
    that is trained daily stops growing. Needs `data.split.by: time`; null: none is forgotten."""
    memory_mb: int = 256
    """Memory for sorting and joining while the folder is made, in MB; the rest goes to disk beside it."""


@dataclass(kw_only=True)
class EncoderSection:
    """How one column becomes a vector."""

    kind: ClassVar[str] = "feature_encoder"

    name: str
    """The encoder; `dicm ls feature_encoder` lists them. Its own keys stand beside it."""
    config: Any = None


@dataclass(kw_only=True)
class HistoryEncoderSection:
    """How one column of the clicked items becomes a vector."""

    kind: ClassVar[str] = "feature_encoder"

    name: str
    """The encoder; may be left out beside `share`."""
    config: Any = None
    share: str | None = None
    """Use the encoder, table and all, of another feature: `target.item_id`."""


@dataclass(kw_only=True)
class FeaturesSection:
    """The columns the model looks at, by side and column name."""

    user: dict[str, EncoderSection] = field(default_factory=dict)
    """Columns of the user; `user_id` is always there."""
    target: dict[str, EncoderSection] = field(default_factory=dict)
    """Columns of the item shown; `item_id` and `picture` (which picture it shows, as an id) are always there."""
    context: dict[str, EncoderSection] = field(default_factory=dict)
    """Columns of the impression."""
    history: dict[str, HistoryEncoderSection] = field(default_factory=dict)
    """Columns of the items clicked before; the same columns as for `target`."""


@dataclass(kw_only=True)
class BackboneSection:
    """What turns pixels into a wide vector."""

    kind: ClassVar[str] = "image_backbone"

    name: str
    """The backbone; `dicm ls image_backbone` lists them. Its own keys stand beside it."""
    config: Any = None


@dataclass(kw_only=True)
class EmbedderSection:
    """The trained layers from the backbone's wide vector to the narrow picture vector."""

    hidden: list[int] = field(default_factory=lambda: [256, 64])
    """Widths of the layers between."""
    dim: int = 12
    """Width of a picture vector."""
    dropout: float = 0.0
    """Share of hidden units dropped in training."""
    standardize: bool = False
    """Bring each dimension of a frozen backbone's vectors to mean 0 and deviation 1 first; the paper does not."""


@dataclass(kw_only=True)
class ImagesSection:
    """The pictures. Leave the section out for the id-only baseline."""

    target: bool = False
    """Show the net the target's picture."""
    history: bool = False
    """Give `interest.images` the pictures of the items clicked before."""
    shuffle: int | None = None
    """A control. A seed: items exchange pictures at random; a gain that stays is not due to what pictures show."""
    backbone: BackboneSection
    """What turns pixels into a wide vector."""
    embedder: EmbedderSection = field(default_factory=EmbedderSection)
    """The trained layers behind the backbone."""
    missing: Literal["zeros", "error"] = "zeros"
    """What a picture that is not in the store gives: a zero vector, or an error."""
    max_distinct: int | None = None
    """Most distinct pictures that a rank may have to compute in a step, as a guard of its memory; null: no limit."""
    store: Literal["mmap", "memory"] = "mmap"
    """Read the backbone's vectors from files as needed, or hold them all in memory."""
    transport: Literal["vectors", "backbone_vectors"] = "vectors"
    """What `image_server` sends between ranks; `backbone_vectors`: to measure what store-in-server would cost."""


@dataclass(kw_only=True)
class AggregatorSection:
    """What makes one interest vector of a history."""

    kind: ClassVar[str] = "interest_aggregator"

    name: str
    """The aggregator; `dicm ls interest_aggregator` lists them. Its own keys stand beside it."""
    config: Any = None


@dataclass(kw_only=True)
class InterestSection:
    """What becomes of the history, slot by slot."""

    ids: AggregatorSection | None = None
    """Pools the id vectors of `features.history`; null: not used."""
    images: AggregatorSection | None = None
    """Pools the picture vectors; needs `images.history: true`; null: not used."""


@dataclass(kw_only=True)
class NetSection:
    """What turns all vectors into the click's log-odds."""

    kind: ClassVar[str] = "base_net"

    name: str
    """The net; `dicm ls base_net` lists them. Its own keys stand beside it."""
    config: Any = None


@dataclass(kw_only=True)
class DenseSection:
    """The optimizer of everything but id tables."""

    name: Literal["adam"] = "adam"
    """The rule."""
    lr: float = 1e-3
    """Learning rate."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""


@dataclass(kw_only=True)
class IdsSection:
    """The optimizer of id tables; it touches only the rows of ids in the batch."""

    name: Literal["lazy_adam", "lazy_adagrad"] = "lazy_adam"
    """The rule. Adagrad keeps one number for each weight, Adam two."""
    lr: float = 1e-3
    """Learning rate."""
    eps: float | None = None
    """What is added to the root that a step is divided by; null: 1e-8 with `lazy_adam`, 1e-10 with `lazy_adagrad`."""
    initial_accumulator: float = 0.0
    """What `lazy_adagrad` begins its sums of squares with: first steps are smaller the larger it is."""
    l2: float = 0.0
    """L2 regularisation of the rows in the batch, weaker for frequent ids (arXiv:1706.06978, section 5.1)."""


@dataclass(kw_only=True)
class BackboneOptimizerSection:
    """The optimizer of a trained backbone, where it differs from `dense`."""

    lr: float = 1e-4
    """Learning rate."""


@dataclass(kw_only=True)
class DecaySection:
    """How learning rates fall."""

    every: int
    """Steps between two cuts; the paper's is 24000."""
    factor: float
    """What each cut multiplies the learning rates by; the paper's is 0.9."""


@dataclass(kw_only=True)
class OptimizerSection:
    """How weights change."""

    dense: DenseSection = field(default_factory=DenseSection)
    """Everything but id tables."""
    ids: IdsSection = field(default_factory=IdsSection)
    """Id tables."""
    backbone: BackboneOptimizerSection | None = None
    """A trained backbone; null: like `dense`."""
    decay: DecaySection | None = None
    """How learning rates fall; null: they stay."""


@dataclass(kw_only=True)
class WarmStartSection:
    """What training starts from. Optimizer, learning rates and random numbers start fresh in any case."""

    run: str | None = None
    """An earlier run's folder (its best checkpoint is taken) or a checkpoint in it; or the folder that `run_dir` is in:
    the last finished run in it before this one, by name; null: everything starts fresh."""
    parts: Literal["all"] | list[str] = field(default_factory=lambda: ["images", "interest", "net", "numbers"])
    """What is taken over: `images` (embedder, trained backbone), `interest`, `net`, `numbers` (encoders of numbers),
    `ids` (tables of id, ids and hash columns, row by row of the ids that both runs know), a single one (`interest.ids`,
    `user.user_id`), or `all`. The default is the paper's partial warm-up: everything but ids."""


@dataclass(kw_only=True)
class EarlyStopSection:
    """When training ends because it no longer gets better, by `checkpoint.monitor`."""

    patience: int
    """Validations in a row without an improvement."""
    min_delta: float = 0.0
    """What is no improvement: as much better than the last one, or less."""


@dataclass(kw_only=True)
class TrainerSection:
    """How long, where and how exactly to train."""

    max_epochs: int | None = 1
    """Passes over the training split; null: until `max_steps`."""
    max_steps: int | None = None
    """Batches after which training ends in any case; null: no such limit."""
    strategy: Literal["auto", "ddp", "image_server"] = "auto"
    """How several ranks work together; `auto`: `ddp`; `image_server`: `ddp`, and the pictures are shared out."""
    timeout: float = 60.0
    """Seconds after which all ranks end when one has died or fallen silent; `image_server` only."""
    look_ahead: bool = True
    """While a step computes, begin what the next one needs and no parameter changes: which pictures and which rows of
    sharded tables are asked of which rank, and the pictures' lookup; false: one by one. Results are the same."""
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    """What to train on."""
    devices: int = 1
    """Ranks on each machine; -1: one for every device there is."""
    num_nodes: int = 1
    """Machines."""
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    """Number format of the computation."""
    gradient_clip: float | None = None
    """Largest norm of the gradient; null: no clipping."""
    log_every: int = 50
    """Steps between two lines of the log."""
    validate_every: int | None = None
    """Steps between two validations; null: after each epoch."""
    early_stop: EarlyStopSection | None = None
    """End before `max_epochs` when validation no longer gets better; the best checkpoint counts. null: never."""
    logger: Literal["csv", "tensorboard", "wandb", "mlflow", "none"] = "csv"
    """Where metrics go; all but csv and none need a package of that name."""
    threads: int | None = None
    """CPU threads per rank; null: the processor's cores divided among the ranks."""


@dataclass(kw_only=True)
class CheckpointSection:
    """What is saved on the way."""

    every: int | None = None
    """Steps between two checkpoints to resume from; null: after each validation."""
    every_minutes: float | None = None
    """Minutes after which one is written as well; null: by steps only."""
    keep: int = 3
    """How many checkpoints stay on disk."""
    monitor: Literal["val/gauc", "val/auc", "val/gauc_unweighted", "val/log_loss"] | None = "val/gauc"
    """What the best checkpoint is best at; null: the last one counts, as without a validation split."""


@dataclass(kw_only=True)
class Recipe:
    """A full description of a run."""

    dicm: int
    """The recipe format: 1."""
    seed: int = 0
    """Start of every random number; the same recipe and seed train the same model."""
    plugins: list[str] = field(default_factory=list)
    """Plugins that provide components: installed ones by name, or `./files.py` beside the recipe."""
    data: DataSection
    """Where the samples come from."""
    batch_size: int
    """Impressions per step, over all ranks; a multiple of `data.lanes`."""
    features: FeaturesSection
    """The columns the model looks at."""
    images: ImagesSection | None = None
    """The pictures; left out: the id-only baseline."""
    interest: InterestSection = field(default_factory=InterestSection)
    """What becomes of the history."""
    net: NetSection
    """What turns all vectors into the click's log-odds."""
    optimizer: OptimizerSection = field(default_factory=OptimizerSection)
    """How weights change."""
    warm_start: WarmStartSection = field(default_factory=WarmStartSection)
    """What training starts from."""
    trainer: TrainerSection = field(default_factory=TrainerSection)
    """How long, where and how exactly to train."""
    checkpoint: CheckpointSection = field(default_factory=CheckpointSection)
    """What is saved on the way."""
    run_dir: str
    """The run folder: resolved recipe, metrics, checkpoints, results."""

"""What an experiment is made of: dataclasses that document every key of a configuration."""

from dataclasses import dataclass, field
from typing import Any


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says where and why."""


def _choice(*choices: str) -> Any:
    """Return a field that takes one of these texts, the first if it is not given."""
    return field(default=choices[0], metadata={"choices": choices})


@dataclass(frozen=True)
class Data:
    """Where cases come from and which of them make pairs.

    Attributes:
        loader: Name in `data.loaders.LOADERS`.
        folder: Folder below the data folder (`data.cases.data_folder`); empty for a loader that makes its cases.
        split: File below training/data/ with the names of "train" and "validation" cases; None where the data set says.
        shape: Grid of the network, array axis order; larger images are reduced to it, None keeps each image's own.
        labels: Number of labels without background.
        normalization: Percentiles of each image that become 0 and 1; must be those of the method the weights are for.
        pairing: "any" two cases, two of the same "group", the group's "reference" and another, or the "listed" pairs.
        self_pairs: A case may be drawn to be registered to itself.
        options: Arguments of the loader.
        validation_options: Those that differ for the validation cases.
    """

    loader: str
    folder: str = ""
    split: str | None = None
    shape: tuple[int, ...] | None = None
    labels: int = 0
    normalization: tuple[float, float] = (0.5, 99.5)
    pairing: str = _choice("any", "group", "reference", "listed")
    self_pairs: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    validation_options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of the training images.

    Attributes:
        strength: Standard deviation of the entries of the affine matrix.
        shift: Standard deviation of the translation in voxels.
        elastic: Standard deviation in voxels of a random displacement at control points, linear between them; not for
            cases with landmarks.
        flip: Array axes that are flipped in half of the cases or pairs, both images of a pair alike.
        gamma: Standard deviation of the logarithm of the exponent of the intensities.
        cut: Voxels that may be cut off either end of each axis, at random, of all images of a batch alike.
        intensity: Transforms of MONAI by name, with their arguments, applied to images alone.
    """

    strength: float = 0.0
    shift: float = 0.0
    elastic: float = 0.0
    flip: tuple[int, ...] = ()
    gamma: float = 0.0
    cut: int = 0
    intensity: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Synthesis:
    """Pairs that are drawn instead of read (data/synthesis.py).

    Attributes:
        shapes: Grids, array axis order; each pair gets one of them.
        kinds: Weight of each kind of pair: "shapes", random blobs and the same deformed; "anatomy", a label map and the
            same deformed; "subjects", label maps of two cases; "real", images and label maps of two cases.
        zoom: Range of the field of view as a share of the label map's; near views are as many as far ones.
        motions: Weight of each kind of random deformation (data/motions.py); none for affine maps alone.
        amplitude: Range of their root mean square, as a share of the mean side; small ones are as many as large ones.
        turn: Standard deviation of the angles in radians.
        stretch: Standard deviation of the change of size along each axis.
        shift: Standard deviation of the translation as a share of the grid.
        alike: Share of pairs of one contrast.
        started: Share of pairs that are as coarse recursions leave them (data/starts.py).
        texture: Largest standard deviation of what varies within structures.
        blur: Largest standard deviation in voxels.
        noise: Largest standard deviation.
    """

    shapes: tuple[tuple[int, ...], ...]
    kinds: dict[str, float] = field(default_factory=lambda: {"shapes": 1.0})
    zoom: tuple[float, float] = (0.5, 1.0)
    motions: dict[str, float] = field(default_factory=lambda: {"smooth": 1.0, "rough": 1.0})
    amplitude: tuple[float, float] = (0.004, 0.06)
    turn: float = 0.08
    stretch: float = 0.05
    shift: float = 0.03
    alike: float = 0.4
    started: float = 0.0
    texture: float = 0.15
    blur: float = 1.2
    noise: float = 0.1


@dataclass(frozen=True)
class DrawnImages:
    """Single images that are drawn from label maps, to learn structures from (data/drawing.py).

    Attributes:
        shapes: Grids, array axis order; each image gets one of them.
        spacing: mm per voxel of them.
        absent: Share of images that show none of the structures: other anatomy, or random shapes.
        stripped: Share of images without what is outside the structures, as skull-stripped ones.
        body: Random tissue surrounds the structures, for label maps that leave it out.
        mirrored: Share of images that are mirrored from left to right, names exchanged.
        tissues: Structures, without their sides, that look much alike in half of the images.
        zoom: Standard deviation of the logarithm of size.
        stretch: Standard deviation of the change of size along each axis, and of shear.
        turn: Standard deviation of the angles in radians.
        shift: Standard deviation of the translation as a share of the grid.
        elastic: Largest standard deviation of the random deformation, as a share of the distance of its knots.
        texture: Largest standard deviation of what varies within structures.
        blur: Largest standard deviation in voxels.
        noise: Largest standard deviation.
        unsure: Largest standard deviation, in voxels, of the errors of outlines that a registration is given.
        validation: Images that are drawn from each label map for validation.
    """

    shapes: tuple[tuple[int, ...], ...]
    spacing: float = 2.0
    absent: float = 0.1
    stripped: float = 0.0
    body: bool = False
    mirrored: float = 0.5
    tissues: tuple[tuple[str, ...], ...] = ()
    zoom: float = 0.08
    stretch: float = 0.06
    turn: float = 0.2
    shift: float = 0.06
    elastic: float = 0.15
    texture: float = 0.15
    blur: float = 1.0
    noise: float = 0.1
    unsure: float = 1.5
    validation: int = 4


@dataclass(frozen=True)
class Optimizer:
    """How weights are updated.

    Attributes:
        name: "adam" or "adamw".
        learning_rate: Largest rate.
        schedule: "constant", "cosine" to zero, "poly" (power 0.9) to zero, or "plateau", which falls to zero in the
            last fifth alone, so that a run may be ended sooner or later than was planned.
        warmup: Steps from zero to the largest rate.
        betas: Of Adam.
        weight_decay: Of AdamW.
        amsgrad: Variant of Adam.
        clip: Largest norm of the gradient; None for any.
    """

    name: str = _choice("adam", "adamw")
    learning_rate: float = 1e-3
    schedule: str = _choice("constant", "cosine", "poly", "plateau")
    warmup: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    amsgrad: bool = False
    clip: float | None = None


@dataclass(frozen=True)
class TrainedRecursions:
    """How many recursions a training step runs.

    Attributes:
        maximum: K.
        schedule: "fixed" K; "random" in 1 to K; "curriculum": one at first, then a random number that favours K.
        gamma: Weight of the similarity after recursion k is gamma^(K - k), normalised; 0 takes the last one alone.
    """

    maximum: int = 1
    schedule: str = _choice("fixed", "random", "curriculum")
    gamma: float = 0.0


@dataclass(frozen=True)
class Run:
    """Length and rhythm of a run, in steps.

    Attributes:
        steps: How many.
        batch: Pairs or cases per step and device.
        ema: Decay of the moving average of the weights, which is what is validated and exported.
        precision: "32", or "bf16" for convolutions and attention.
        checkpointed: Recompute each recursion in the backward pass to save memory.
        save_every: Checkpoint.
        validate_every: Score on validation cases, figure.
        log_every: Curves.
        workers: Processes that prepare batches; 0 prepares them in the training process.
    """

    steps: int
    batch: int = 1
    ema: float = 0.995
    precision: str = _choice("32", "bf16")
    checkpointed: bool = False
    save_every: int = 200
    validate_every: int = 1000
    log_every: int = 20
    workers: int = 0


@dataclass(frozen=True)
class Validation:
    """What is scored during training: `pairs` seeded pairs (or that many cases), `batch` at a time."""

    pairs: int = 20
    batch: int = 1


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measures.

    Attributes:
        protocol: "network": through the network, on the cases' own grid; "job": whole jobs as users run them, with the
            shipped weights or those of a run.
        recursions: Numbers of recursions; each makes a row.
        pairs: Number of seeded pairs; None for all that the pairing allows, in both directions.
        batch: Pairs at once.
        refinement_steps: Of the refined rows of the "job" protocol.
        refined_recursions: Recursions before that refinement; None for the method's usual number.
        true_masks: Also give a network that attends to masks those of the labels instead of its segmenter's: how far
            the segmenter limits it.
    """

    protocol: str = _choice("network", "job")
    recursions: tuple[int, ...] = (1,)
    pairs: int | None = None
    batch: int = 16
    refinement_steps: int = 40
    refined_recursions: int | None = None
    true_masks: bool = False


@dataclass(frozen=True)
class Release:
    """What `export` writes beside the weights.

    Attributes:
        id: Name of the weights.
        training_data: Data set, number of cases, terms.
        licence: Licence of the weights.
        method: Name of the method file that gets a variant.
        general: For any anatomy: the method's first choice.
        extent_mm: Range of fields of view, along the longest axis, that the weights are for; None for any.
        refinement: Refinement settings that suit them.
        anatomy: What their images show, as users say it; empty for anything.
        structures: Names of those that the network tells apart, in their order; those of the data where it is drawn.
        recursions: Usual number with them; None for the method's.
        pyramid: By which factors the grids of the first recursions are coarser; none for one grid.
        spacing_mm: Voxel size that the network knows; None for any.
    """

    id: str
    training_data: str
    licence: str
    method: str
    general: bool = False
    extent_mm: tuple[float, float] | None = None
    refinement: dict[str, Any] = field(default_factory=dict)
    anatomy: str = ""
    structures: tuple[str, ...] = ()
    recursions: int | None = None
    pyramid: tuple[int, ...] = ()
    spacing_mm: float | None = None


@dataclass(frozen=True)
class Config:
    """One experiment.

    Attributes:
        title: Name in the tables of results.
        group: Table of results it belongs to.
        task: "registration"; "segmentation"; "multiclass" for a segmentation by structures that exclude each other, on
            drawn images; or "autoencoder".
        note: What to know before one runs it.
        seed: Of weights, batches and augmentation.
        data: Cases.
        run: Length.
        network: Arguments of the architecture.
        losses: Weight of each loss, or an object with its "weight" and arguments.
        architecture: Name in `networks.ARCHITECTURES`, for registration.
        parts: Trained parts, each the name of the configuration whose run gives it: "segmenter" (of the network),
            "autoencoder" (of the loss).
        start: Name of the configuration whose run gives the weights to start from, except those of `parts`; None starts
            from chance.
        recursions: How many.
        identity_share: Share of pairs of an image with itself, which must not move.
        optimizer: Of the weights.
        augmentation: Of the images.
        synthesis: Training pairs that are drawn; None for the cases themselves.
        drawing: Training images that are drawn, for the multiclass task, or pairs of structures for a registration.
        validation: During training.
        evaluation: Afterwards.
        release: None for weights that are not shipped.
    """

    title: str
    group: str
    task: str = field(metadata={"choices": ("registration", "segmentation", "multiclass", "autoencoder")})
    data: Data
    run: Run
    network: dict[str, Any]
    losses: dict[str, Any]
    note: str = ""
    seed: int = 0
    architecture: str | None = None
    parts: dict[str, str] = field(default_factory=dict)
    start: str | None = None
    recursions: TrainedRecursions = field(default_factory=TrainedRecursions)
    identity_share: float = 0.0
    optimizer: Optimizer = field(default_factory=Optimizer)
    augmentation: Augmentation = field(default_factory=Augmentation)
    synthesis: Synthesis | None = None
    drawing: DrawnImages | None = None
    validation: Validation = field(default_factory=Validation)
    evaluation: Evaluation = field(default_factory=Evaluation)
    release: Release | None = None

    @property
    def by_transfer(self) -> bool:
        """Whether its weights are measured by `transfer`, as those are that need no images of the anatomy."""
        return self.drawing is not None or (self.release is not None and self.release.general)

    def weighted_losses(self) -> dict[str, tuple[float, dict[str, Any]]]:
        """Return weight and arguments of each loss by name."""
        table = {}
        for name, given in self.losses.items():
            options = dict(given) if isinstance(given, dict) else {"weight": given}
            table[name] = (float(options.pop("weight")), options)
        return table

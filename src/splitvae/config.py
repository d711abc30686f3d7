"""Everything that a training run depends on, as one flat record; its docstrings are the command line's help."""

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from cyclopts import Group, Parameter

from splitvae.errors import InputError, nearest

DATA = Parameter(group=Group("Data", sort_key=1))
NETWORK = Parameter(group=Group("Network", sort_key=2))
OBJECTIVE = Parameter(group=Group("Objective", sort_key=3))
SPLIT = Parameter(group=Group("Split", sort_key=4))
OPTIMISATION = Parameter(group=Group("Optimisation", sort_key=5))
RECORDS = Parameter(group=Group("Records", sort_key=6))

Network = Literal[
    "split-vae", "rae", "rae-normed", "rae-normed-4x4", "infogan", "wae", "resnet", "resnet-normed", "resnet-light"
]
# Options that decide where and how a training runs, and not what comes out but for its last digits.
ELSEWHERE = {
    "data", "device", "precision", "compile", "quiet", "checkpoint_minutes", "checkpoint_every", "snapshot_every",
    "log_every", "tracker",
}  # fmt: skip
# Options that are gone, and the value that what is left does: what was written with it is read as before.
RETIRED = {"head": "shared"}
REGISTERED: set[str] = set()  # names of networks of one's own, see ``models/foreign.py``
# Options that only some networks have.
APPLIES = {
    "scale_blocks": ("split-vae",),
    "blocks_per_scale": ("split-vae",),
    "depth_per_block": ("split-vae",),
    "padding": ("split-vae",),
    "num_scales": ("split-vae", "resnet"),
    "embedding_dim": ("split-vae", "resnet", "infogan"),
}
# Options of the objective, and the models that have them.
OF_MODELS = {
    **dict.fromkeys(("beta", "gamma_rule", "gamma_init", "gamma_lr"), ("splitvae", "vae")),
    "embedding_weight": ("rae", "rae-gp", "rae-l2", "rae-sn"),
    "penalty_weight": ("rae-gp", "rae-l2"),
    "gradient_penalty": ("rae-gp",),
    **dict.fromkeys(
        (
            "split",
            "mask_scale",
            "mask_smoothness",
            "mask_decisiveness",
            "mask_balance",
            "masks",
            "mask_share",
            "mask_repeat",
            "guidance",
        ),
        ("splitvae",),
    ),
}
# Options that matter with one value of another only; None = with any that it is given.
NEEDS: dict[str, tuple[str, str | None]] = {
    "gamma_lr": ("gamma_rule", "learned"),
    "lr_halve_every": ("lr_schedule", "halving"),
    **dict.fromkeys(("mask_share", "mask_repeat", "guidance"), ("masks", None)),
}
# What the kinds of split are made of, see docs/choosing-split.md.
SPLITS: dict[str, dict[str, Any]] = {
    "free": {},
    "semantic": {"mask_scale": 4},
    "syntactic": {"mask_smoothness": -0.3},
}
KNOBS = {name for values in SPLITS.values() for name in values}


@dataclass(frozen=True)
class TrainConfig:
    """The recipe of a run. The defaults are the recipe ``images``: sensible for a folder of pictures of one's own."""

    data: Annotated[str | None, DATA] = None
    """Where the pictures are: a directory of parquet shards (train-…, test-…), a folder of images, an .npz with an
    array train, "digits", or the name of a data set on the hub. Needed unless the preset names one."""
    image_size: Annotated[int | str | None, DATA] = None
    """Side in pixels (64), or height and width (48x80). None = the pictures' own size if they agree and have no side
    above 128, else 64."""
    crop: Annotated[Literal["auto", "celeba", "none"], DATA] = "auto"
    """"auto" gives pictures that are all 178x218 (aligned CelebA) the paper's crop, rows 45:173, columns 25:153."""
    fit: Annotated[Literal["crop", "stretch"], DATA] = "crop"
    """Pictures of another shape: "crop" cuts the centre before resizing, "stretch" changes the aspect."""
    flip: Annotated[bool, DATA] = False
    """Mirror each training image left to right with probability one half."""
    skip_damaged: Annotated[bool, DATA] = False
    """Leave out pictures that cannot be read instead of refusing the source."""

    model: Annotated[Literal["splitvae", "vae", "ae", "rae", "rae-gp", "rae-l2", "rae-sn"], NETWORK] = "splitvae"
    """"splitvae" blends num_components images by learned masks; "vae" is its counterpart with one; "ae" is without
    noise; "rae" penalises its codes, -gp, -l2 and -sn its decoder too (Ghosh et al.)."""
    network: Annotated[Network, NETWORK] = "split-vae"
    """Whose layers: "split-vae" = the paper's; the others are of RAE, of Two-Stage VAE (infogan, wae, resnet), or with
    the changes (-normed, -4x4, -light) that explain the paper's parameter counts. Not all options apply to all;
    base_channels is 128 in the papers of rae and wae, 32 in that of resnet."""
    latent_dim: Annotated[int, NETWORK] = 128
    """Number of latent variables, at least 1."""
    num_components: Annotated[int, NETWORK] = 2
    """Number of images that a SplitVAE blends; 2 = the paper, 1 = a plain VAE."""
    base_channels: Annotated[int, NETWORK] = 64
    """Channels of the first scale; they double at each reduction. 64 = the paper; 32 trains 4 times as fast."""
    num_scales: Annotated[int, NETWORK] = 4
    """Number of reductions (stride 2) in the encoder."""
    scale_blocks: Annotated[int, NETWORK] = 1
    """Scale Blocks at each scale of the pyramid."""
    blocks_per_scale: Annotated[int, NETWORK] = 1
    """Residual Blocks inside each Scale Block."""
    depth_per_block: Annotated[int, NETWORK] = 2
    """Convolutions inside each Residual Block."""
    embedding_dim: Annotated[int, NETWORK] = 512
    """Width of the dense block between convolutions and latents."""
    padding: Annotated[Literal["torch", "tf-same"], NETWORK] = "torch"
    """"tf-same" pads as TensorFlow does; for weights from Keras."""
    batch_norm_momentum: Annotated[float, NETWORK] = 0.05
    """Weight of the new batch in batch norm's running statistics; .001 = the paper, for runs of many epochs."""
    output_init: Annotated[Literal["random", "data-mean"], NETWORK] = "random"
    """Where decoded images begin: "random" = grey, as random weights paint; "data-mean" = at the mean of the training
    images, for dark ones such as MNIST, where the output layer of a plain VAE can get stuck in the first steps."""

    beta: Annotated[float, OBJECTIVE] = 3.0
    """Weight of the KL term in loss = SSE/(2γ) + β·KL, in nats. 8 = the paper's MNIST, 3 = CIFAR-10, CelebA."""
    gamma_rule: Annotated[Literal["running-min", "clamped-ema", "learned", "fixed"], OBJECTIVE] = "running-min"
    """How the decoder's variance gamma follows the mse: "running-min" = Split-VAE, "clamped-ema" = Asperti & Trentin,
    "learned" = Dai & Wipf, "fixed"."""
    gamma_init: Annotated[float | Literal["first-batch"], OBJECTIVE] = "first-batch"
    """Gamma at the start; 1 = the paper, "first-batch" = the mse of the first batch, for short runs."""

    gamma_lr: Annotated[float, OBJECTIVE] = 1.0
    """Multiplies the learning rate of a learned gamma; short runs need 10, or it cannot fall as far as the mse does."""
    embedding_weight: Annotated[float, OBJECTIVE] = 1e-4
    """RAE's beta, as its authors print it: weight of the codes' mean square beside the mean squared error."""
    penalty_weight: Annotated[float, OBJECTIVE] = 1e-7
    """RAE's lambda, as its authors print it: weight of the gradient (rae-gp) or of the decoder's kernels (rae-l2)."""
    gradient_penalty: Annotated[Literal["authors", "jacobian", "pythae"], OBJECTIVE] = "authors"
    """Which gradient rae-gp penalises: that of RAE's code, of its paper, or of the library pythae."""

    split: Annotated[Literal["free", "semantic", "syntactic"], SPLIT] = "free"
    """The kind of split: "free" = as it comes, the paper; "semantic" has masks that follow things, "syntactic" masks
    that deal neighbouring pixels out. A name for values of mask-scale and mask-smoothness, which go before it."""
    mask_scale: Annotated[int, SPLIT] = 1
    """Masks are painted in squares of this many pixels and made smooth; 1 = pixel by pixel."""
    mask_smoothness: Annotated[float, SPLIT] = 0.0
    """Weight, in nats, of a mask's changes where the image has none; below 0 it asks for them."""
    mask_decisiveness: Annotated[float, SPLIT] = 0.0
    """Weight of the masks' entropy: pixels of one component alone."""
    mask_balance: Annotated[float, SPLIT] = 0.0
    """Weight of a term that keeps all components in use."""
    masks: Annotated[str | None, SPLIT] = None
    """Given masks, which the model learns to paint: an .npz with train_masks (N, H, W), a folder of pictures named as
    the images, or the column of masks in parquet shards and hub data. Their numbers, sorted, are the components;
    images may have none. None = no masks."""
    mask_share: Annotated[float, SPLIT] = 1.0
    """Share of the training images whose masks are used; less than 1 is for experiments."""
    mask_repeat: Annotated[int, SPLIT] = 1
    """How often an epoch shows each image that has a mask; where one in twenty has one, 20 makes them half of all."""
    guidance: Annotated[float, SPLIT] = 10.0
    """Weight of given masks, of an image that has one: nats of a pixel's component beside nats of its colour."""

    epochs: Annotated[int, OPTIMISATION] = 100
    """Passes over the training images."""
    batch_size: Annotated[int, OPTIMISATION] = 100
    """Images per optimiser step, over all processes and micro-batches. More than there are images = all of them."""
    lr: Annotated[float, OPTIMISATION] = 1e-3
    """Learning rate of Adam (betas .9, .999, eps 1e-7)."""
    lr_schedule: Annotated[Literal["constant", "cosine", "halving", "plateau"], OPTIMISATION] = "cosine"
    """"constant" = the paper; "cosine" falls to zero at the end of the last epoch; "halving" = Two-Stage VAE;
    "plateau" halves it when five epochs bring nothing = RAE."""
    lr_halve_every: Annotated[int, OPTIMISATION] = 150
    """Epochs between halvings of the rate, for "halving"."""
    warmup_steps: Annotated[int, OPTIMISATION] = 0
    """Steps over which the rate rises from zero; 0 = none."""
    clip_norm: Annotated[float | None, OPTIMISATION] = None
    """Largest norm of the gradient; None = no limit."""
    accumulate: Annotated[int, OPTIMISATION] = 1
    """Micro-batches per optimiser step; more need less memory."""
    ema_decay: Annotated[float, OPTIMISATION] = 0.0
    """Decay of the running average of the weights that is saved for use, such as .999; 0 = the weights themselves."""
    seed: Annotated[int, OPTIMISATION] = 0
    """Decides the initial weights, the order of the images and the noise."""
    precision: Annotated[Literal["auto", "bf16", "fp32"], OPTIMISATION] = "auto"
    """"auto" = bf16 where the machine is really faster with it; the loss stays in float32."""
    sync_batch_norm: Annotated[bool, OPTIMISATION] = True
    """With several processes: batch norm over the global batch, so that they train the model that one would."""
    compile: Annotated[bool, OPTIMISATION] = False
    """Compile the model with torch.compile."""
    device: Annotated[Literal["auto", "cpu", "cuda"], OPTIMISATION] = "auto"
    """"auto" = a GPU where there is one; which of several says CUDA_VISIBLE_DEVICES."""

    checkpoint_minutes: Annotated[float, RECORDS] = 5.0
    """Minutes between states to resume from; the last two are kept."""
    checkpoint_every: Annotated[int, RECORDS] = 0
    """Steps between states to resume from, as well; 0 = by time only."""
    snapshot_every: Annotated[int, RECORDS] = 0
    """Epochs between models kept in snapshots/ for figures along the training; 0 = none."""
    log_every: Annotated[int, RECORDS] = 50
    """Steps between lines in log.jsonl."""
    tracker: Annotated[Literal["none", "tensorboard", "wandb", "mlflow"], RECORDS] = "none"
    """Where accelerate sends the log as well; each needs its extra: pip install "splitvae[wandb]". Account and server
    are set by the tracker's own variables, such as WANDB_MODE or MLFLOW_TRACKING_URI."""
    quiet: Annotated[bool, RECORDS] = False
    """Print nothing but errors."""

    def __post_init__(self) -> None:
        """Check types, choices and bounds, so that a wrong value is refused before any work is done."""
        for name, hint in get_type_hints(type(self)).items():
            if name == "network" and self.network in REGISTERED:
                continue
            if name == "network" and isinstance(self.network, str) and self.network not in get_args(Network):
                raise InputError(
                    f"network is '{self.network}'.{nearest(self.network, get_args(Network))} One of your own is "
                    "registered first, with splitvae.register_network."
                )
            _check_type(name, getattr(self, name), hint)
        at_least = {
            "latent_dim": 1, "num_components": 1, "base_channels": 1, "num_scales": 1, "scale_blocks": 1,
            "blocks_per_scale": 1, "depth_per_block": 1, "embedding_dim": 1, "beta": 0, "embedding_weight": 0,
            "penalty_weight": 0, "mask_scale": 1, "mask_decisiveness": 0, "mask_balance": 0, "mask_repeat": 1,
            "guidance": 0, "epochs": 1, "batch_size": 2, "lr_halve_every": 1, "warmup_steps": 0, "accumulate": 1,
            "seed": 0, "checkpoint_every": 0, "snapshot_every": 0, "log_every": 1,
        }  # fmt: skip
        for name, bound in at_least.items():
            if not bound <= getattr(self, name) < float("inf"):
                raise InputError(f"{name} must be at least {bound}, not {getattr(self, name)}.")
        for name in ("lr", "gamma_lr", "checkpoint_minutes", "clip_norm", "gamma_init"):
            value = getattr(self, name)
            if isinstance(value, int | float) and not 0 < value < float("inf"):
                raise InputError(f"{name} must be positive and finite, not {value}.")
        if not 0 < self.batch_norm_momentum <= 1:
            raise InputError(f"batch_norm_momentum must lie in (0, 1], not {self.batch_norm_momentum}.")
        if self.num_components == 1 and self.model == "splitvae" and (self.mask_scale > 1 or self.split_terms()):
            raise InputError(
                "one component has no masks; leave out the options of the split, or ask for more components."
            )
        if not 0 < self.mask_share <= 1:
            raise InputError(f"mask_share must lie in (0, 1], not {self.mask_share}.")
        if not math.isfinite(self.mask_smoothness):
            raise InputError(f"mask_smoothness must be finite, not {self.mask_smoothness}.")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay must lie in [0, 1), not {self.ema_decay}.")
        if self.variational and self.gamma_rule == "fixed" and self.gamma_init == "first-batch":
            raise InputError("gamma_rule fixed needs its value: pass gamma_init, such as 0.5 for SSE + β·KL.")
        if self.batch_size % self.accumulate:
            raise InputError(
                f"batch_size {self.batch_size} must be a multiple of accumulate {self.accumulate}; choose another."
            )
        if self.model != "splitvae" and self.num_components not in (1, TrainConfig.num_components):
            raise InputError(f"{self.model} has one component; use --model splitvae for {self.num_components}.")
        for name in APPLIES.keys() - self.network_options():
            if getattr(self, name) != getattr(TrainConfig, name):
                raise InputError(f"{name} does not apply to the network {self.network}; leave it out.")
        if self.lr_schedule == "plateau" and self.gamma_rule != "fixed" and self.variational:
            raise InputError("lr_schedule plateau watches the loss, which falls with gamma; use it with a fixed gamma.")
        if self.model == "rae-gp" and self.compile:
            raise InputError("rae-gp differentiates twice, which torch.compile cannot; leave --compile out.")
        self.parsed_size()

    @property
    def variational(self) -> bool:
        """Whether the model has a posterior with a spread, and so beta and gamma_rule matter."""
        return self.model in ("splitvae", "vae")

    def split_terms(self) -> dict[str, float]:
        """The weights of terms on the masks that are not off, see ``splitvae.models.split_terms.SplitTerms``."""
        terms = {name: getattr(self, f"mask_{name}") for name in ("smoothness", "decisiveness", "balance")}
        terms["guidance"] = self.guidance if self.masks is not None else 0.0
        return {name: weight for name, weight in terms.items() if weight}

    def network_options(self) -> set[str]:
        """Fields that are options of the network, see ``splitvae.models.registry``."""
        if self.network in REGISTERED:
            return set()
        family = {name for name, networks in APPLIES.items() if self.network.startswith(networks)}
        return family | {"base_channels", "batch_norm_momentum"}

    def parsed_size(self) -> tuple[int, int] | None:
        """``image_size`` as (H, W); None = from the data."""
        return parse_size(self.image_size)

    def to_dict(self) -> dict[str, Any]:
        """As a flat dict of JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str = "the configuration") -> "TrainConfig":
        """From a flat dict; unknown keys are refused."""
        values = without_retired(values)
        check_names(values, where)
        return cls(**values)

    def with_changes(self, changes: dict[str, Any]) -> "TrainConfig":
        """A copy with other values; unknown names are refused with the nearest known one."""
        check_names(changes, "an option")
        plain = {name: str(changes[name]) for name in ("data", "masks") if isinstance(changes.get(name), Path)}
        if isinstance(changes.get("image_size"), tuple | list):  # as (H, W), which parse_size gives
            plain["image_size"] = "x".join(map(str, changes["image_size"]))
        return replace(self, **changes | plain)


def without_retired(values: dict[str, Any]) -> dict[str, Any]:
    """Recorded values without options of ``RETIRED`` that are as what is left; others stay, to be refused by name."""
    return {name: value for name, value in values.items() if name not in RETIRED or RETIRED[name] != value}


def idle(option: str, config: TrainConfig) -> bool:
    """Whether an option of ``NEEDS`` changes nothing here."""
    other, value = NEEDS[option]
    found = getattr(config, other)
    return found is None if value is None else found != value


def network_fields() -> set[str]:
    """All fields that are options of some network."""
    return {*APPLIES, "base_channels", "batch_norm_momentum"}


def parse_size(text: int | str | None) -> tuple[int, int] | None:
    """A side such as 64, or "48x80", as (H, W); None stays None."""
    if text is None:
        return None
    sides = str(text).lower().replace("×", "x").split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) >= 8 for side in sides):
        raise InputError(
            f"image_size must be a side of at least 8 such as 64, or height x width such as 48x80, not '{text}'."
        )
    return int(sides[0]), int(sides[-1])


def check_names(values: dict[str, Any], where: str) -> None:
    """Raise InputError for a key that is no field of TrainConfig."""
    known = {field.name for field in fields(TrainConfig)}
    for name in values:
        if name not in known:
            raise InputError(f"unknown option '{name}' in {where}.{nearest(name, known)}")


def _check_type(name: str, value: Any, hint: Any) -> None:
    """Check a value against a field's type: bool, int, float, str, None, a Literal, or a union of them."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    literals = [word for option in options for word in get_args(option)]
    plain = [option for option in options if isinstance(option, type)]
    if isinstance(value, str) and literals and str not in plain:
        if value not in literals:
            raise InputError(f"{name} is '{value}'.{nearest(value, literals)}")
        return
    fits = (
        (value is None and type(None) in plain)
        or (isinstance(value, bool) and bool in plain)
        or (isinstance(value, int) and not isinstance(value, bool) and (int in plain or float in plain))
        or (isinstance(value, float) and float in plain)
        or (isinstance(value, str) and str in plain)
    )
    if not fits:
        wanted = " or ".join(["nothing" if option is type(None) else option.__name__ for option in plain] + literals)
        raise InputError(f"{name} must be {wanted}, not {json.dumps(value, default=str)}.")

"""What a training run depends on, checked as far as it can be without reading the data."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from ..checks import check_at_least, check_below_one, check_positive, check_types
from ..data.reader import ReadOptions
from ..data.transforms import TrainTransform
from ..model.config import OWN_BACKBONES, ModelConfig
from ..sizes import check_size

MAX_SEED = 2**32 - 1  # numpy's global generator takes no more
_REQUIRED_PATHS = ("train_images", "train_annotations", "val_images", "val_annotations", "work_dir")
_OPTIONAL_PATHS = ("init_trunk", "init_checkpoint", "graph_file")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of Eq. 2 and 3; the defaults are the paper's."""

    alpha: float = 30.0
    """α, of the PIF confidence; α/N weighs the node logits of each of the N DGCMs."""
    theta: float = 2.0
    """θ, of the PIF offset."""
    beta: float = 50.0
    """β, of the PAF confidence."""
    delta: float = 3.0
    """δ, of the PAF offset."""
    scale: float = 2.0
    """Weight of the PIF scale σ, which the decoder needs and the paper's equations leave out."""
    regression: Literal["smooth_l1", "laplace"] = "smooth_l1"
    """Loss of offsets: Eq. 2 and 3, where the spread b is not supervised, or PifPaf's |d|·exp(-b) + b."""
    smooth_l1_beta: float = 0.5
    """Where Smooth-L1 turns from quadratic to linear, in cells."""

    def __post_init__(self) -> None:
        check_types(self)
        check_at_least(self, 0, "alpha", "theta", "beta", "delta", "scale")
        check_positive(self, "smooth_l1_beta")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything a training run depends on; the defaults are those of `recipes.paper`, but for its ImageNet weights."""

    train_images: Path
    """Folder of training images."""
    train_annotations: Path
    """Annotations of the training images: COCO keypoint JSON, CrowdPose's JSON or MPII's .h5, .json or .mat."""
    val_images: Path
    """Folder of validation images."""
    val_annotations: Path
    """Annotations of the validation images."""
    work_dir: Path
    """Folder where checkpoints, the training state and the history are written."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Weights of Eq. 2 and 3."""
    reading: ReadOptions = field(default_factory=ReadOptions)
    """How the annotation files are read."""
    data_notes: Mapping[str, Any] = field(default_factory=dict)
    """What the checkpoints are to say of the data; JSON-serialisable. `dgcn train` writes the category and the rules by
    which the skeleton was made."""
    pretrained: bool = False
    """ImageNet weights of the backbone, from timm."""
    init_trunk: Path | None = None
    """.npz file of a trained trunk of mobilenetv1_075 or movenet_multipose to start from."""
    init_checkpoint: Path | None = None
    """dgcn checkpoint of the same model whose weights to start from."""
    reset_heads: bool = False
    """Let `init_checkpoint` hold another model, of other keypoints, say: take what fits, start the rest afresh."""
    graph_file: Path | None = None
    """graph.json of `dgcn graph` with the distances (Eq. 5) of which the graphs 'dynamic' and 'soft' are made; measured
    on the training persons by default."""
    size: int = 641
    """Edge of the training crops in pixels, 16n+1."""
    scale_range: tuple[float, float] = (0.4, 2.0)
    """Random zoom, lowest and highest, where 1 fits the picture's long edge into the crop."""
    epochs: int = 100
    """Passes over the training images."""
    batch_size: int = 8
    """Training images in one step of the optimizer, of all processes together."""
    accumulation_steps: int = 1
    """Parts in which a process takes its share of a batch one after another, to save memory."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """The paper's, or AdamW."""
    learning_rate: float = 1e-3
    """Peak learning rate of everything but the backbone; reached by a linear warm-up, then as `schedule` says."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """What follows the warm-up: half a cosine down to a hundredth, a tenth after each of `step_epochs`, or nothing."""
    step_epochs: tuple[int, ...] = ()
    """Epochs after which the schedule 'step' divides the learning rate by 10."""
    backbone_lr_factor: float = 1.0
    """Learning rate of the backbone as a fraction of `learning_rate`."""
    momentum: float = 0.95
    """Momentum of 'sgd'."""
    weight_decay: float = 1e-5
    """On weights of two dimensions and more."""
    warmup_steps: int = 200
    """Optimizer steps over which the learning rate rises from 0."""
    freeze_epochs: int = 1
    """First epochs in which the backbone is frozen, batch norm statistics included."""
    batch_norm: Literal["local", "sync", "frozen"] = "local"
    """Statistics of batch norm: of the images of each process, of all processes (on GPUs), or those of the start."""
    freeze_stem: bool = False
    """Keep the backbone's layers up to stride 4 frozen in every epoch; for mobilenetv1_075 and movenet_multipose."""
    clip_norm: float = 10.0
    """Largest norm of the gradient; 0 for no limit."""
    ema: float = 0.999
    """Decay of the averaged weights, which are what is evaluated and saved; 0 for none."""
    amp: Literal["off", "bf16", "fp16"] = "off"
    """Autocast to bfloat16, or to float16 with a scaled loss."""
    compile: bool = False
    """Train a network that torch.compile has compiled."""
    eval_every: int = 1
    """Evaluate on the validation images every so many epochs, and after the last."""
    patience: int = 0
    """Stop after so many evaluations in a row without a new highest AP; 0 for never."""
    long_edge: int | None = None
    """Long edge of the validation images in pixels, 16n+1; the size of the crops by default."""
    save_seconds: float = 300.0
    """Save the training state at least this often within an epoch."""
    on_save_error: Literal["stop", "continue"] = "stop"
    """What to do where a file of the run cannot be written: stop, or warn and go on."""
    workers: int = 1
    """Processes that load images, for each training process; 0 loads them in the training process itself."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """What to do where a training image is missing or damaged: stop, or name it and take the next one in its place."""
    device: str = "cpu"
    """'cpu', 'cuda' or 'cuda:N'; several training processes have a GPU each with 'cuda'."""
    seed: int = 0
    """Of everything that is random: the start, the order of the images, the augmentation, the graphs."""
    deterministic: bool = False
    """Make torch refuse operations that are not deterministic."""
    log: tuple[Literal["csv", "tensorboard"], ...] = ()
    """What is written beside history.jsonl, into the same folder: history.csv, or events for TensorBoard."""
    resume: str | Path | None = None
    """'auto' continues the run in the work folder if there is one; a path continues that training state."""
    allow_changes: bool = False
    """Continue a run with other settings than it had."""

    def __post_init__(self) -> None:
        for name in (*_REQUIRED_PATHS, *_OPTIONAL_PATHS):
            value = getattr(self, name)
            if value == "":  # of which `Path` would make the current folder
                raise ValueError(f"{name} must not be empty")
            if isinstance(value, (str, os.PathLike)):
                object.__setattr__(self, name, Path(value))
            elif value is not None or name in _REQUIRED_PATHS:
                raise TypeError(f"{name} must be a path, got {value!r}")
        if self.resume == "":
            raise ValueError("resume must not be empty")
        if not isinstance(self.resume, (str, os.PathLike, type(None))):
            raise TypeError(f"resume must be 'auto', a path or None, got {self.resume!r}")
        for name, kind in (("model", ModelConfig), ("loss", LossConfig), ("reading", ReadOptions)):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} must be a {kind.__name__}, got {getattr(self, name)!r}")
        if not isinstance(self.data_notes, Mapping):
            raise TypeError(f"data_notes must be a mapping, got {self.data_notes!r}")
        check_types(self)
        check_at_least(self, 1, "epochs", "batch_size", "accumulation_steps", "eval_every")
        check_at_least(self, 0, "warmup_steps", "freeze_epochs", "patience", "workers", "seed")
        check_at_least(self, 0, "backbone_lr_factor", "weight_decay", "clip_norm", "save_seconds")
        check_positive(self, "learning_rate")
        check_below_one(self, "momentum", "ema")
        if self.seed > MAX_SEED:
            raise ValueError(f"seed must be at most {MAX_SEED}, got {self.seed}")
        if self.schedule == "step" and not self.step_epochs:
            raise ValueError("step_epochs must be given with the schedule 'step', got none")
        if self.schedule != "step" and self.step_epochs:
            raise ValueError(f"step_epochs must be empty with the schedule {self.schedule!r}, got {self.step_epochs!r}")
        if any(not isinstance(epoch, int) or epoch < 1 for epoch in self.step_epochs):
            raise ValueError(f"step_epochs must be epochs from 1, got {self.step_epochs!r}")
        self.transform()
        check_size(self.val_long_edge, "long_edge")
        for name, is_given in (("init_trunk", self.init_trunk is not None), ("freeze_stem", self.freeze_stem)):
            if is_given and self.model.backbone not in OWN_BACKBONES:
                raise ValueError(f"{name} needs the backbone {' or '.join(OWN_BACKBONES)}, got {self.model.backbone}")
        if self.reset_heads and self.init_checkpoint is None:
            raise ValueError("reset_heads needs an init_checkpoint, got none")
        if self.graph_file is not None and self.model.graph not in ("dynamic", "soft"):
            raise ValueError(f"graph_file needs the graph 'dynamic' or 'soft', got {self.model.graph!r}")

    def transform(self) -> TrainTransform:
        """The augmentation."""
        return TrainTransform(size=self.size, skeleton=self.model.skeleton, scale_range=self.scale_range)

    @property
    def val_long_edge(self) -> int:
        """Long edge of the validation images in pixels."""
        return self.size if self.long_edge is None else self.long_edge

    def evaluates_after(self, epoch: int) -> bool:
        """Whether epoch number `epoch` (from 1) is followed by an evaluation."""
        return epoch % self.eval_every == 0 or epoch == self.epochs

    def to_dict(self) -> dict[str, Any]:
        """A JSON-serialisable dictionary; `from_dict` is its inverse."""
        plain = {**asdict(self), "model": self.model.to_dict()}
        return json.loads(json.dumps(plain, default=os.fspath))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Raises ValueError on entries that this version does not know or misses, TypeError or ValueError on values
        that no configuration may have."""
        if unknown := sorted(values.keys() - {each.name for each in fields(cls)}):
            raise ValueError(f"the configuration of a run has the unknown entries {', '.join(unknown)}")
        if missing := [name for name in _REQUIRED_PATHS if name not in values]:
            raise ValueError(f"the configuration of a run has no {', '.join(missing)}")
        if wrong := [name for name in ("model", "loss", "reading") if not isinstance(values.get(name, {}), Mapping)]:
            raise TypeError(f"{wrong[0]} must be an object of settings, got {values[wrong[0]]!r}")
        made = _tuples(values)
        for name, kind in (("loss", LossConfig), ("reading", ReadOptions)):
            if name in made:
                made[name] = kind(**_tuples(made[name]))
        if "model" in made:
            made["model"] = ModelConfig.from_dict(made["model"])
        return cls(**made)

    def absolute(self) -> TrainConfig:
        """The same with absolute paths, which mean the same from every folder."""
        names = (*_REQUIRED_PATHS, *_OPTIONAL_PATHS)
        return replace(self, **{name: os.path.abspath(p) for name in names if (p := getattr(self, name)) is not None})

    def tracked(self) -> dict[str, Any]:
        """The settings that the result of a run depends on, as in `to_dict`."""
        free = {"work_dir", "resume", "allow_changes", "workers", "device", "save_seconds", "on_save_error"}
        free |= {"data_notes", "log"}
        return {name: value for name, value in self.to_dict().items() if name not in free}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The entries in which two nested dictionaries differ, as "name.inner: old -> new"."""
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from differences(before, after, f"{prefix}{name}.")
        elif before != after:
            yield f"{prefix}{name}: {before} -> {after}"


def read_config(path: Path) -> TrainConfig:
    """The configuration in a run's config.json. Raises OSError, or ValueError that names the file."""
    try:
        values = json.loads(path.read_bytes())
        if not isinstance(values, dict):
            raise TypeError(f"it must be an object of settings, got {values!r:.40}")
        return TrainConfig.from_dict(values)
    except (AttributeError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not the config.json of a run: {error}") from error


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries, with a tuple for each list."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

"""The registration task: any architecture of the engine, losses by name."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from DeepAttentionRegEngine.deform.losses import soft_dice
from DeepAttentionRegEngine.deform.warp import resize_displacement, warp
from DeepAttentionRegEngine.networks import build
from DeepAttentionRegEngine.networks.autoencoder import Autoencoder
from DeepAttentionRegEngine.networks.base import ImagePair, Recursion, RegistrationNetwork

from ..configs.schema import Config, ConfigError
from ..data.batches import Batch, PairSampler, pair_batch, pair_channels
from ..data.cases import CaseSet
from ..data.drawing import drawn_cases
from ..data.synthesis import validation_pairs
from .tasks import Score, Terms, TrainingTask, middle, trained_part, with_masks
from .terms import FIELDS, INCREMENTS, OTHERS, SIMILARITIES, Sight, View, deep_supervision, inverse_error

VALIDATION_SEED = 1
PREDICTORS = ("pyramid", "scales_of")  # methods that predict the fields of all scales, by architecture


class Registration(TrainingTask):
    """Trains a network by similarity, overlap and regularity of its recursions.

    The loss is `sum_k gamma^(K-k) D(fixed, warped_k) + R(phi_K) + mean_k R(psi_k)`, this project's choice.
    """

    def __init__(self, config: Config, runs: Path | None = None) -> None:
        """Build the network.

        Args:
            config: The experiment.
            runs: Folder of the runs that trained its parts; None leaves the parts untrained.
        """
        super().__init__(config)
        if config.architecture is None:
            msg = "a registration needs an architecture"
            raise ConfigError(msg)
        self.network: RegistrationNetwork = build(config.architecture, config.network)
        self.network.half_precision = config.run.precision == "bf16"
        self.network.checkpointed = config.run.checkpointed
        self.autoencoder: Autoencoder | None = None
        unknown = set(config.parts) - {"segmenter", "autoencoder"}
        if unknown:
            msg = f"parts: {', '.join(sorted(unknown))} unknown (known: segmenter, autoencoder)"
            raise ConfigError(msg)
        if "deep_supervision" in self.weights and not _predictor(self.network):
            msg = f"losses: {config.architecture} offers no fields for deep_supervision"
            raise ConfigError(msg)
        if runs is not None:
            self._load_parts(runs)

    def known_losses(self) -> tuple[str, ...]:
        """Return the names of all losses."""
        return (*SIMILARITIES, *INCREMENTS, *FIELDS, *OTHERS)

    def _load_parts(self, runs: Path) -> None:
        weights = self.network.state_dict()
        if self.config.start is not None:
            weights = trained_part(self.config.start, runs)["average"]
        if "segmenter" in self.config.parts:
            # Its own run counts, not that of the start, whose segmenter may be of another width.
            own = trained_part(self.config.parts["segmenter"], runs)["average"]
            weights = {name: value for name, value in weights.items() if not name.startswith("segmenter.")}
            weights |= {f"segmenter.{name}": value for name, value in own.items()}
        self.network.load_state_dict(weights)
        if "autoencoder" in self.config.parts:
            trained = trained_part(self.config.parts["autoencoder"], runs)
            self.autoencoder = Autoencoder(**trained["config"]["network"]).requires_grad_(False).eval()
            self.autoencoder.load_state_dict(trained["average"])

    def train(self, mode: bool = True) -> "Registration":
        """Set the mode of all but the auto-encoder, which keeps its statistics."""
        super().train(mode)
        if self.autoencoder is not None:
            self.autoencoder.eval()
        return self

    def prepare(self, found: CaseSet) -> CaseSet:
        """Return cases with the masks of the trained segmenter, so that it does not run in every step."""
        segmenter: nn.Module | None = getattr(self.network, "segmenter", None)
        if segmenter is None or self.config.drawing is not None:
            return found
        device = next(segmenter.parameters()).device
        with torch.no_grad():
            return with_masks(found, lambda image: segmenter(image.to(device)).sigmoid().cpu())

    def seen(self, pair: ImagePair) -> ImagePair:
        """Return the images that similarity is taken of: masked where the network masks them."""
        masked: Callable[[ImagePair], ImagePair] | None = getattr(self.network, "masked", None)
        return pair if masked is None else masked(pair)

    def forward(self, batch: Batch, recursions: int) -> Terms:
        """Return the weighted terms of a batch of pairs and their sum, "loss"."""
        pair = image_pair(batch)
        seen = self.seen(pair)
        gamma = self.config.recursions.gamma
        decays = [gamma ** (recursions - index) for index in range(1, recursions + 1)]
        terms: Terms = {}
        previous: Recursion | None = None
        with recorded_fields(self.network) as fields:
            for decay, state in zip(decays, self.network.recurse(pair, recursions), strict=True):
                view = self._view(batch, seen, state)
                self._add(terms, SIMILARITIES, view, decay / sum(decays))
                self._add(terms, INCREMENTS, view, 1 / recursions)
                self._supervise(terms, _sight(view, seen, previous), fields, 1 / recursions)
                previous = state
        self._add(terms, FIELDS, view, 1.0)
        if "inverse_consistency" in self.weights:
            *_, back = self.network.recurse(swapped(pair), recursions)
            terms["inverse_consistency"] = inverse_error(view.displacement, back.displacement)
        return self.total(terms)

    def _view(self, batch: Batch, seen: ImagePair, state: Recursion) -> View:
        return View(
            fixed=seen.fixed,
            warped=warp(seen.moving, state.displacement),
            fixed_labels=batch.get("fixed_labels"),
            moving_labels=batch.get("moving_labels"),
            displacement=state.displacement,
            increment=state.increment,
            same=batch["same"],
            fixed_points=batch.get("fixed_points"),
            moving_points=batch.get("moving_points"),
            spacing=batch["fixed_spacing"][0] if "fixed_spacing" in batch else None,
            truth=batch.get("fixed_displacement"),
            known=batch.get("fixed_known"),
            encode=None if self.autoencoder is None else self.autoencoder.encode,
        )

    def _add(self, terms: Terms, kind: dict[str, Any], view: View, share: float) -> None:
        for name, (_, options) in self.weights.items():
            if name in kind and share > 0:
                terms[name] = terms.get(name, 0) + share * kind[name](view, **options)

    def _supervise(self, terms: Terms, sight: Sight, fields: dict[int, Tensor], share: float) -> None:
        if "deep_supervision" in self.weights:
            value = deep_supervision(sight, fields, **self.weights["deep_supervision"][1])
            terms["deep_supervision"] = terms.get("deep_supervision", 0) + share * value

    @torch.no_grad()
    def validate(self, found: CaseSet, device: torch.device) -> Score:
        """Return the mean soft Dice over seeded pairs, without labels the negative mean squared error of the images."""
        scores: dict[str, list[float]] = {}
        images: list[list[Tensor]] = []
        for kind, chunk in self._validation_batches(found):
            batch = {name: value.to(device) for name, value in chunk.items()}
            *_, last = self.network.recurse(image_pair(batch), self.config.recursions.maximum)
            scores.setdefault(kind, []).extend(_scores(batch, last))
            if len(images) < 4:
                images.append([middle(image) for image in (batch["fixed_image"], batch["moving_image"], last.warped)])
                images[-1].append((images[-1][2] - images[-1][0]).abs())
        details = {kind: sum(values) / len(values) for kind, values in scores.items() if kind}
        everything = [value for values in scores.values() for value in values]
        return Score(sum(everything) / len(everything), images, details)

    def _validation_batches(self, found: CaseSet) -> Iterator[tuple[str, Batch]]:
        """Yield the kind, empty where there is one alone, and the batch: drawn where validation cases have no image."""
        settings, data, drawn = self.config.validation, self.config.data, self.config.synthesis
        if drawn is not None and not found.shown:
            for kind, pair in validation_pairs(drawn, found, data.labels, settings.pairs, VALIDATION_SEED):
                yield kind, pair_batch([pair])
            return
        if self.config.drawing is not None:
            found = replace(found, cases=drawn_cases(self.config, found))
        pairs = PairSampler(found, data.pairing).sampled(settings.pairs, VALIDATION_SEED)
        for start in range(0, len(pairs), settings.batch):
            chunk = [pair_channels(found.cases, pair, data.labels) for pair in pairs[start : start + settings.batch]]
            yield "", pair_batch(chunk)


def _scores(batch: Batch, last: Recursion) -> list[float]:
    if "fixed_labels" not in batch:
        return (-(last.warped - batch["fixed_image"]).square().flatten(1).mean(1)).tolist()
    fixed = batch["fixed_labels"]
    warped = warp(batch["moving_labels"], resize_displacement(last.displacement, fixed.shape[2:]))
    return [float(soft_dice(a[None], b[None])) for a, b in zip(warped, fixed, strict=True)]


def _sight(view: View, seen: ImagePair, previous: Recursion | None) -> Sight:
    moving, labels = seen.moving, view.moving_labels
    if previous is not None:
        moving = warp(moving, previous.displacement)
        labels = None if labels is None else warp(labels, previous.displacement)
    return Sight(seen.fixed, moving, view.fixed_labels, labels)


def image_pair(batch: Batch) -> ImagePair:
    """Return the images and, if known, the masks of a batch."""
    return ImagePair(batch["fixed_image"], batch["moving_image"], batch.get("fixed_mask"), batch.get("moving_mask"))


def swapped(pair: ImagePair) -> ImagePair:
    """Return a pair with fixed and moving exchanged."""
    return replace(pair, fixed=pair.moving, moving=pair.fixed, fixed_mask=pair.moving_mask, moving_mask=pair.fixed_mask)


def _predictor(network: RegistrationNetwork) -> str | None:
    return next((name for name in PREDICTORS if hasattr(network, name)), None)


@contextmanager
def recorded_fields(network: RegistrationNetwork) -> Iterator[dict[int, Tensor]]:
    """Give a dictionary that holds the fields of all scales of the network's last prediction, empty if it has none."""
    fields: dict[int, Tensor] = {}
    name = _predictor(network)
    if name is None:
        yield fields
        return
    predict = getattr(network, name)

    def recorded(*arguments: Any) -> Any:
        result = predict(*arguments)
        fields.clear()
        fields.update(result if isinstance(result, dict) else result.displacements)
        return result

    setattr(network, name, recorded)
    try:
        yield fields
    finally:
        delattr(network, name)

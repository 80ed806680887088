"""Looks for the deformation of one working pair: by the method, then by refinement."""

from dataclasses import dataclass, field, replace
from dataclasses import fields as dataclass_fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..constraints.guide import LandmarkGuide
from ..deform.bodies import Bodies
from ..deform.pairs import Masks
from ..deform.reach import search_widely
from ..deform.refine import RefineSettings, level_size, refine, usual_settings
from ..deform.warp import resize_displacement
from ..protocol import errors
from ..protocol.contract import build
from ..protocol.registry import Variant
from ..protocol.reporting import Reporter
from ..protocol.settings import Settings
from ..volume.geometry import Geometry
from .guidance import BETWEEN_CONTRASTS, WEIGHT, Guidance, joined
from .method_run import Applied, MethodRun, Observer, Proposal, Tool, similarity, structures_closer
from .preprocess import WorkingPair

# Share of its local correlation that a pair has to keep. Of still, finely structured surroundings a motion by half a
# voxel takes some, even if what moved was found.
WORTH_KEEPING = 0.9


@dataclass
class Search:
    """A deformation under way: the displacement so far, how to refine it if it is trusted, and what to tell about it.

    Attributes:
        settings: With no number left open.
        pair: On the working grid.
        fixed: Grid of the fixed volume.
        reporter: Told how it goes.
        guidance: Segments that steer; None if none do.
        guide: Landmarks that guide; None if none do.
        bodies: Segments that move as one piece each; None if none do.
        displacement: `(1, nd, *spatial)` in voxels of the working grid, or of a finer one where segments slide.
        view: The pair on the grid on which similarity is told, that of the method.
        trusted: Refinement settings of the weights, where the pair suits them.
        structures: Masks of what the network sees, on the grid of `view`, where refinement is to bring it to overlap.
        pull: How strongly, as the weights say; 0 where they do not.
        names: Of the structures that the network sees.
        proposal: A sequence of Gaussians, where one is to be kept.
        values: Numbers and texts by name.
        warnings: Sentences the user must see.
    """

    settings: Settings
    pair: WorkingPair
    fixed: Geometry
    reporter: Reporter
    guidance: Guidance | None = None
    guide: LandmarkGuide | None = None
    bodies: Bodies | None = None
    displacement: Tensor = field(init=False)
    view: WorkingPair = field(init=False)
    trusted: dict[str, Any] = field(default_factory=dict)
    structures: Masks | None = None
    pull: float = 0.0
    names: tuple[str, ...] = ()
    proposal: Proposal | None = None
    values: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        spatial = self.pair.fixed.shape[2:]
        self.displacement = torch.zeros(1, len(spatial), *spatial, device=self.pair.fixed.device)
        self.view = self.pair

    def run_method(self, tool: Tool, observer: Observer) -> None:
        """Apply the method; a deformation clearly worse than the alignment alone is not used."""
        settings, title = self.settings, tool.method.title
        self.values.update(weights=tool.variant.weights)
        run = MethodRun(tool, settings.recursions or 1, self.reporter, observer, self.guidance)
        found = run.apply(self.pair, self.fixed)
        self.view = found.view
        self._see(found, tool.variant)
        if observer.keeps_gaussians and found.proposal is None:
            raise errors.EngineError(
                errors.CONTRACT, f"{title} makes no sequence of Gaussians.", "Choose the method r2n2."
            )
        similarities = found.similarities
        best = int(np.nanargmax(similarities))
        self.values.update(recursions=len(similarities) - 1, similarity=similarities, best_recursion=best)
        kept = similarities[-1] >= WORTH_KEEPING * similarities[0]  # false for a broken field, not a number, too
        if kept or structures_closer(found.view, found.displacement):
            self._take(found, tool.variant, observer)
            return
        self.warnings.append(
            f"{title} made the volumes much less similar, so its deformation was left out; "
            "it may not suit the anatomy or modality."
        )
        if observer.keeps_gaussians:
            self.warnings.append("There are no Gaussians left to write.")

    def _see(self, found: Applied, variant: Variant) -> None:
        """Keep the structures that the network sees for the refinement, even if its deformation is of no use."""
        self.names = variant.structures
        if variant.refinement.get("structures") and variant.suits(max(self.fixed.extent_mm)):
            self.structures, self.pull = found.structures, variant.refinement["structures"]
        if variant.anatomy and variant.structures and found.structures is None:
            self.warnings.append(
                f"The weights {variant.weights} look for structures of: {variant.anatomy.lower()}; at least one image "
                "shows none of them, so they did not steer the registration."
            )

    def _take(self, found: Applied, variant: Variant, observer: Observer) -> None:
        """Go on from what the method found."""
        spatial = tuple(self.pair.fixed.shape[2:])
        self.displacement = resize_displacement(found.displacement, spatial)
        self.trusted = variant.refinement if self._fits(variant) else {}
        if observer.keeps_gaussians:
            self.proposal = found.proposal

    def _fits(self, variant: Variant) -> bool:
        """Return whether the weights were trained on fields of view of this size; warn if not."""
        reason = misfit(variant, self.fixed)
        if reason:
            self.warnings.append(f"{reason}; do not rely on the network alone.")
        return not reason

    def search_widely(self) -> None:
        """Look for large motions from where the method ended; what does not make the images more alike is not used."""
        if self.proposal is not None:
            self.warnings.append("A sequence of Gaussians cannot start from a wide search.")
            return
        found = search_widely(self.pair.fixed, self.pair.moving, self.displacement)
        self.values["wide_search"] = "used" if found is not self.displacement else "nothing better found"
        self.displacement = found

    def follow_landmarks(self) -> None:
        """Lead the displacement to the landmarks that guide, from where refinement starts."""
        if self.guide is None:
            return
        if self.proposal is not None:
            self.guide = None
            self.warnings.append("A sequence of Gaussians cannot be guided by landmarks; they measure it instead.")
            return
        if self.guide.contradictions is None:
            self.guide = self.guide.judged(self._foreseen())
        self.displacement, field = self.guide.led(self.displacement)
        told = self.guide.told(field)
        self.values["landmarks"] = told
        self.warnings += told["contradictions"]
        count, foretold = told["guided"], told["left_out_mm"]
        text = f"Landmarks guided the registration ({count}), so that their distance does not measure it."
        if foretold:
            text += f" Each was foretold by the others to {foretold['mean']:.1f} mm (mean)."
        self.warnings.append(text)

    def _foreseen(self) -> Tensor:
        """Return the displacement that the images alone lead to from here, coarsely."""
        chosen = refine_settings(self.settings, self.pair.fixed.ndim - 2, self.trusted)
        return refine(replace(self.pair, structures=None), self.displacement, replace(chosen, levels=chosen.levels[:1]))

    def meet_landmarks(self) -> None:
        """Bring the landmarks that guide within their tolerance."""
        if self.guide is not None:
            self.displacement = self.guide.met(self.displacement)

    def keep_bodies(self) -> None:
        """Move each segment that keeps its shape or volume as one piece."""
        if self.proposal is not None and (self.bodies is not None or self.pair.sliding is not None):
            self.bodies, self.pair = None, replace(self.pair, sliding=None)
            self.warnings.append("A sequence of Gaussians can neither hold segments nor let them slide.")
        if self.bodies is not None:
            self.displacement = self.bodies.settled(self.displacement)

    def run_refinement(self) -> None:
        """Improve the displacement on this pair; a sequence of Gaussians that is to be kept stays one."""
        settings, steps = self.settings, self.settings.refinement_steps or 0

        def on_step(step: int, of: int, loss: float) -> bool:
            self.reporter.step("refine", step, of, f"Refinement, loss {loss:.4f}.")
            return self.reporter.enough()

        if self.proposal is not None:
            self.proposal = self.proposal.refined(steps, settings.similarity, settings.smoothness, on_step)
            self.displacement = self.proposal.displacement(tuple(self.pair.fixed.shape[2:]))
        else:
            chosen = refine_settings(settings, self.pair.fixed.ndim - 2, self.trusted)
            pair, chosen = self._steered(chosen)
            if self.guide is not None:
                pair = replace(pair, landmarks=self.guide.landmarks.to(pair.fixed.device))
            pair = replace(pair, bodies=self.bodies)
            self.displacement = refine(pair, self.displacement, chosen, on_step)
        seen = resize_displacement(self.displacement, tuple(self.view.fixed.shape[2:]))
        self.values["refined_similarity"] = similarity(self.view, seen)

    def _steered(self, chosen: RefineSettings) -> tuple[WorkingPair, RefineSettings]:
        """Return the pair with all structures that steer the refinement, and settings by which they count."""
        found = self.structures
        if self.guidance is not None:
            half = level_size(tuple(self.pair.fixed.shape[2:]), 2)
            view = self.pair.at(half) if found is None else self.view
            found = joined(found, self.guidance.beside(view, self.names))
        pull = (self.pull or WEIGHT) * self.settings.steering_weight if found is not None else 0.0
        if self.settings.similarity == "mind":
            pull *= BETWEEN_CONTRASTS
        chosen = replace(chosen, structures=pull)
        return replace(self.pair, structures=found), chosen


def misfit(variant: Variant, image: Geometry) -> str:
    """Return that weights were trained on fields of view of another size than an image's; empty if they suit it."""
    extent = max(image.extent_mm)
    if variant.extent_mm is None or variant.suits(extent):
        return ""
    low, high = variant.extent_mm
    return (
        f"The weights {variant.weights} were trained on fields of view of {low:g} to {high:g} mm, this one has "
        f"{extent:.0f} mm"
    )


def refine_settings(settings: Settings, axes: int, trusted: dict[str, Any]) -> RefineSettings:
    """Return how to refine: the usual settings, or those of the weights, and what the user chose.

    Args:
        settings: What the user chose, with no number left open.
        axes: Spatial axes, 2 or 3.
        trusted: Fields that come with the weights; empty for the usual ones.

    Raises:
        EngineError: If the weights name settings that are not known.
    """
    steps = settings.refinement_steps or 0
    try:
        usual = (
            build(RefineSettings, {**trusted, "steps": steps})
            if trusted
            else usual_settings(axes, settings.similarity, steps)
        )
    except (errors.EngineError, ValueError) as error:
        raise errors.EngineError(
            errors.WEIGHTS_CORRUPT,
            f"The refinement settings beside the weights make no sense ({error}).",
            f"Known: {', '.join(item.name for item in dataclass_fields(RefineSettings))}.",
        ) from error
    return replace(
        usual,
        similarity=settings.similarity,
        velocity=settings.velocity,
        smoothness=usual.smoothness * settings.smoothness,
    )

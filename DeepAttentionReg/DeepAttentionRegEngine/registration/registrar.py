"""Registers pairs of images: the function that everything else calls."""

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from ..constraints.guide import LandmarkGuide
from ..constraints.held_segments import HeldSegments
from ..constraints.held_segments import missed as not_held
from ..deform.tensors import choose_device, use_full_precision
from ..networks import load_network
from ..protocol import contract, errors
from ..protocol.contract import METHOD_NONE, Event, Progress
from ..protocol.estimate import estimate
from ..protocol.grid import REFINEMENT_ALONE, GridPolicy
from ..protocol.quality import resolve
from ..protocol.registry import choose_variant, find_variant, load_method
from ..protocol.reporting import Reporter
from ..protocol.settings import AS_FIXED, Settings
from ..volume.geometry import Geometry
from ..volume.images import AnyImage
from ..volume.intensity import PERCENTILES
from ..volume.segments import AnySegments
from .belonging import doubts
from .deformation import StoredDeformation
from .evaluation import finite, missed, regularity, score_states
from .free_memory import free_memory, held_memory
from .guidance import Guidance, let_slide
from .inputs import AnyLinear, AnyPoints, Given, Inputs, load_inputs
from .memory import COARSEST, LEAST_VOXELS, NETWORK_STAGES, NO_ECONOMY, WORKING_STAGES, Economy, run_where_it_fits
from .method_run import Observer, Tool
from .preprocess import prepare
from .registered import Registered
from .search import Search
from .starts import find_start
from .transform_grid import described, store
from .versions import versions

CLEARLY = 1.25  # times what is free is more than there is: estimates may be as far off


class Registrar:
    """Registers any number of pairs with the same settings; the network stays loaded.

    Examples:
        >>> registrar = Registrar(Settings(method="none", refinement_steps=5))
        >>> [registrar.register(image, image).measures["jacobian"]["folds"] for image in (fixed, moving)]
        [0, 0]
    """

    def __init__(self, settings: Settings | None = None, economy: Economy = NO_ECONOMY) -> None:
        """Check the settings and read the method.

        Args:
            settings: As they were chosen; None for the usual ones.
            economy: What to go without from the start, for lack of memory.

        Raises:
            EngineError: If a value is out of range, or the method or the device is not there.
        """
        self.settings = contract.build(Settings, asdict(settings or Settings()))
        if self.settings.method == METHOD_NONE and self.settings.weights is not None:
            raise errors.EngineError(
                errors.CONTRACT, "Refinement alone has no weights.", "Choose a method, or leave them out."
            )
        self.economy = economy
        self.device = choose_device("cpu" if economy.on_cpu else self.settings.device)
        self.method = None if self.settings.method == METHOD_NONE else load_method(self.settings.method)
        if self.method is not None:
            self.method.recursions_for(self.settings.recursions)
        self._tools: dict[int, Tool] = {}

    def resolved(self, axes: int) -> Settings:
        """Return the settings with no number left open, as the weights for images of so many axes have it.

        Raises:
            EngineError: If what is told beside the user's own weights is damaged.
        """
        variant = None if self.method is None else find_variant(self.method, axes, self.settings.weights)
        found = resolve(self.settings, self.method, variant, on_gpu=self.device.type != "cpu")
        return replace(found, half_precision=True) if self.economy.half_precision else found

    def register(
        self,
        fixed: AnyImage,
        moving: AnyImage,
        *,
        fixed_mask: AnyImage | None = None,
        moving_mask: AnyImage | None = None,
        fixed_labels: AnySegments | None = None,
        moving_labels: AnySegments | None = None,
        fixed_points: AnyPoints | None = None,
        moving_points: AnyPoints | None = None,
        initial: AnyLinear | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        cancel: Callable[[], bool] | None = None,
        finish: Callable[[], bool] | None = None,
        observer: Observer | None = None,
    ) -> Registered:
        """Register a moving onto a fixed image.

        Args:
            fixed: Image that stays: a file, a SimpleITK image, or an array `(k, j, i)` with its `Geometry`. An image in
                2D is a single slice; all results of it are volumes of one slice.
            moving: Image to deform onto it.
            fixed_mask: Where the fixed image drives the registration; label map on any grid, above 0 inside.
            moving_mask: Where the moving image does.
            fixed_labels: Segments of the fixed image, to measure with: a label map, or a file of segments that may
                overlap (.seg.nrrd).
            moving_labels: Those of the moving image: same names, or same label values where there are none.
            fixed_points: Landmarks on the fixed image: a file, or `(N, 3)` LPS mm.
            moving_points: The same landmarks on the moving image, in the same order.
            initial: Linear map of fixed to moving points that comes first: a file, a SimpleITK transform or 4x4 LPS mm.
            on_progress: Called with every step forward.
            cancel: Asked now and then whether to give up; then an error with the code "cancelled" is raised.
            finish: Asked now and then whether to end with the best so far.
            observer: Sees every recursion of the method.

        Raises:
            EngineError: With a sentence on what is wrong and what to do.
        """
        labels, points = (fixed_labels, moving_labels), (fixed_points, moving_points)
        given = Given((fixed_mask, moving_mask), labels, points, initial, not self.settings.led_by_segments)
        reporter = _reporter(on_progress, cancel, finish)
        with reporter.stage("load", "Reading the volumes."):
            inputs = load_inputs(fixed, moving, given)
            for warning in inputs.warnings:
                reporter.step("load", message=warning)
        return self._run_where_it_fits(inputs, reporter, observer or Observer())

    def thriftier(self, stage: str, fixed: Geometry) -> "Registrar | None":
        """Return one that needs less memory at a stage; None if only what was chosen by name is left to change.

        Args:
            stage: Where memory ran out.
            fixed: Grid of the fixed volume.
        """
        chosen, economy, on_gpu = self.settings, self.economy, self.device.type != "cpu"
        may_halve = on_gpu and chosen.half_precision is None and self.method is not None and self.method.needs_weights
        if may_halve and stage in NETWORK_STAGES and not self.resolved(_axes(fixed)).half_precision:
            return Registrar(chosen, replace(economy, half_precision=True))
        coarser = 2 * economy.coarser
        voxels = math.prod(self.policy(fixed).working_size(fixed.size, fixed.spacing))
        if stage in WORKING_STAGES and coarser <= COARSEST and voxels >= 2 * LEAST_VOXELS:
            found = Registrar(chosen, replace(economy, coarser=coarser))
            found._tools = self._tools
            return found
        return Registrar(chosen, Economy(on_cpu=True)) if on_gpu and chosen.device == "auto" else None

    def spared(self, fixed: Geometry, reporter: Reporter) -> "Registrar | None":
        """Return a thriftier one for the stage under way, and tell of it; None as there."""
        found = self.thriftier(reporter.under_way, fixed)
        if found is not None:
            reporter.step("load", message=found.economy.sentence)
        return found

    def _run_where_it_fits(self, inputs: Inputs, reporter: Reporter, observer: Observer) -> Registered:
        """Run, and with ever less of what was not asked for by name where memory runs out."""
        fixed = inputs.fixed.geometry
        used = self._expected_to_fit(fixed, reporter)

        def spare() -> bool:
            nonlocal used
            found = used.spared(fixed, reporter)
            if found is not None:
                used = found._expected_to_fit(fixed, reporter)
            return found is not None

        return run_where_it_fits(lambda: used._run(inputs, reporter, observer), spare)

    def _expected_to_fit(self, fixed: Geometry, reporter: Reporter) -> "Registrar":
        """Return the first of this and thriftier ones whose estimate is not far above what is free, else this one.

        Linux ends what takes too much without an error that could be caught; graphics cards raise one.
        """
        free = free_memory() if self.device.type == "cpu" else None
        found: Registrar | None = self
        while found is not None and free is not None:
            needs = found._needs(fixed)
            if needs <= CLEARLY * free:
                break
            if found is self:
                text = f"About {needs / 1e9:.1f} GB of memory will be needed, and {free / 1e9:.1f} GB are free."
                reporter.step("load", message=text)
            found = found.thriftier("refine", fixed)
        if found is None or found is self:
            return self
        reporter.step("load", message=found.economy.sentence)
        return found

    def _needs(self, fixed: Geometry) -> float:
        """Return how many bytes more than now a registration needs by the estimate; 0 if its costs are not known."""
        found = estimate(fixed.size, fixed.spacing, self.settings, coarser=self.economy.coarser)
        return 0.0 if found is None else found.bytes - held_memory()

    def policy(self, fixed: Geometry) -> GridPolicy:
        """Return the sizes of the grids over a volume."""
        usual = REFINEMENT_ALONE if self.method is None else self.method.grid[_axes(fixed)]
        return usual.coarser(fixed.size, fixed.spacing, self.economy.coarser)

    def _run(self, inputs: Inputs, reporter: Reporter, observer: Observer) -> Registered:
        # What the caller draws at random afterwards is none of ours.
        with torch.random.fork_rng(devices=[] if self.device.type == "cpu" else [self.device]):
            torch.manual_seed(self.settings.seed)
            return self._search(inputs, reporter, observer)

    def _search(self, inputs: Inputs, reporter: Reporter, observer: Observer) -> Registered:
        fixed = inputs.fixed.geometry
        settings = self.resolved(_axes(fixed))
        use_full_precision()
        percentiles = PERCENTILES if self.method is None else self.method.normalization
        warnings = list(inputs.warnings)
        guidance = self._guidance(inputs, warnings)
        held = self._held(inputs)
        with reporter.stage("align", "Aligning the volumes."):
            chosen = settings.alignment, inputs.initial, settings.seed, self.device
            start = find_start(inputs.fixed, inputs.moving, *chosen)
            matrix = start.matrix
            pair = prepare(inputs.fixed, inputs.moving, matrix, self.policy(fixed), self.device, percentiles)
        if settings.sliding.strip():
            pair, sentence = let_slide(pair, inputs.reference.fixed_labels, settings.sliding)
            warnings.append(sentence)
        guide = self._guide(inputs, matrix, pair.geometry)
        joined = pair.fixed if pair.sliding is None else pair.sliding.inside
        bodies = None if held is None else held.bodies(pair.grid_of(joined), matrix, self.device)
        if bodies is not None and pair.sliding is not None:
            pair = replace(pair, sliding=pair.sliding.beside(bodies.fixed))
        constraints = guidance, guide, bodies
        search = Search(settings, pair, fixed, reporter, *constraints, warnings=[*warnings, *start.warnings])
        self._tell_economy(search)
        search.values.update(start=start.chosen, start_similarity=start.similarities)
        search.warnings += doubts(inputs.fixed, inputs.moving, inputs.reference)
        search.values.update(method=settings.method, device=str(self.device), alignment=matrix.ravel().tolist())
        self.find(search, observer)
        if reporter.enough():
            search.warnings.append("Finished early on request; more recursions or refinement might improve the result.")
        deformation = store(search.displacement, search.pair, fixed, settings.transform_grid)
        if held is not None and search.bodies is not None and settings.transform_grid == AS_FIXED:
            deformation = StoredDeformation(held.exact(deformation.displacement_lps_mm), fixed)
        with reporter.stage("evaluate", "Measuring the deformation."):
            measures = {**search.values, **_measures(deformation, inputs, matrix, self.device)}
            if search.guide is not None:
                measures["after"].pop("tre_mm", None)
            if held is not None and search.bodies is not None:
                measures["held_segments"] = held.told(deformation)
                search.warnings += [held.sentence, *not_held(measures["held_segments"])]
        search.warnings += missed(measures["after"])
        folds = measures["jacobian"]["folds"]
        if folds:
            search.warnings.append(f"The deformation folds in {folds} voxels; points there have no valid inverse.")
        measures.update(settings=asdict(settings), seconds=reporter.seconds, versions=versions())
        return Registered(deformation, fixed, finite(measures), search.warnings, reporter.seconds, inputs, search, self)

    def _guidance(self, inputs: Inputs, warnings: list[str]) -> Guidance | None:
        """Return the segments that steer; None unless they are to."""
        if not self.settings.steered.strip():
            return None
        axes, weights = _axes(inputs.fixed.geometry), self.settings.weights
        names = () if self.method is None else choose_variant(self.method, axes, weights).structures
        warnings.append("The segments steered the registration, so that their overlap does not prove it right.")
        return Guidance.of(inputs.reference, names, self.settings.steered)

    def _guide(self, inputs: Inputs, alignment: np.ndarray, working: Geometry) -> LandmarkGuide | None:
        """Return the landmarks that guide; None unless they are to."""
        fixed, moving = inputs.reference.fixed_points_lps, inputs.reference.moving_points_lps
        if not self.settings.guided:
            return None
        if fixed is None or moving is None:
            raise errors.EngineError(
                errors.INPUT_INVALID,
                "There are no landmarks that could guide the registration.",
                "Give the same landmarks in the same order on both images.",
            )
        usual, told = self.settings.landmark_tolerance, inputs.reference.tolerances_mm
        tolerances = np.full(len(fixed), usual) if told is None else np.where(np.isnan(told), usual, told)
        return LandmarkGuide.of((fixed, moving), alignment, working, tolerances)

    def _held(self, inputs: Inputs) -> HeldSegments | None:
        """Return the segments that move as one piece each; None if none are to."""
        if not self.settings.holds_segments:
            return None
        sides = inputs.reference.fixed_labels, inputs.reference.moving_labels
        return HeldSegments.of(*sides, self.settings.rigid, self.settings.volume_keeping)

    def _tell_economy(self, search: Search) -> None:
        if self.economy != NO_ECONOMY:
            search.warnings.append(self.economy.sentence)
            search.values.update(economy=asdict(self.economy))

    def find(self, search: Search, observer: Observer | None = None) -> None:
        """Find the displacement of a working pair by method and refinement."""
        if self.method is not None:
            with search.reporter.stage("recursion", "Preparing the method."):
                search.run_method(self.tool(search.pair.fixed.ndim - 2), observer or Observer())
        if search.settings.wide_search:
            with search.reporter.stage("refine", "Looking for large motions."):
                search.search_widely()
        search.follow_landmarks()
        search.keep_bodies()
        if search.settings.refinement_steps and not search.reporter.enough():
            with search.reporter.stage("refine", "Refining the deformation on this pair."):
                search.run_refinement()
        search.meet_landmarks()
        search.keep_bodies()

    def tool(self, axes: int) -> Tool:
        """Return the method with its network for images of so many axes; loaded once."""
        if axes not in self._tools and self.method is not None:
            variant = choose_variant(self.method, axes, self.settings.weights)
            network = load_network(self.method.architecture, variant).to(self.device)
            network.half_precision = bool(self.resolved(axes).half_precision)
            self._tools[axes] = Tool(self.method, variant, network)
        return self._tools[axes]


def register(fixed: AnyImage, moving: AnyImage, settings: Settings | None = None, **options: Any) -> Registered:
    """Register a moving onto a fixed image.

    Args:
        fixed: Image that stays: a file, a SimpleITK image, or an array `(k, j, i)` with its `Geometry`.
        moving: Image to deform onto it.
        settings: How; None for the usual ones.
        options: Those of `Registrar.register`: fixed_mask, moving_mask, fixed_labels, moving_labels, fixed_points,
            moving_points, initial, on_progress, cancel, finish, observer.

    Raises:
        EngineError: With a sentence on what is wrong and what to do.

    Examples:
        >>> registered = register(fixed, moving, Settings(method="none", refinement_steps=10))
        >>> registered.measures["refined_similarity"] > 0.5
        True
        >>> registered.warp().GetSize() == registered.jacobian().GetSize() == fixed.GetSize()
        True
    """
    return Registrar(settings).register(fixed, moving, **options)


def _axes(fixed: Geometry) -> int:
    return 2 if fixed.is_flat else 3


def _measures(
    deformation: StoredDeformation, inputs: Inputs, matrix: np.ndarray, device: torch.device
) -> dict[str, Any]:
    """Score the deformation, and for comparison the volumes as they were and after the linear alignment."""
    fixed, reference = inputs.fixed.geometry, inputs.reference
    values = {"transform_grid": described(deformation), **regularity(deformation, fixed), **reference.unpaired}
    return {**values, **score_states(deformation, (inputs.initial, matrix), fixed, reference, device)}


def _reporter(
    on_progress: Callable[[Progress], object] | None,
    cancel: Callable[[], bool] | None,
    finish: Callable[[], bool] | None,
) -> Reporter:
    reporter = Reporter()

    def tell(event: Event) -> None:
        if on_progress is not None and isinstance(event, Progress):
            on_progress(event)

    return replace(reporter, emit=tell, cancelled=cancel or reporter.cancelled, enough=finish or reporter.enough)

"""How much effort a registration takes, in one choice instead of several numbers. Standard library only."""

from dataclasses import dataclass, replace

from .registry import Method, Variant
from .settings import Settings


@dataclass(frozen=True)
class Effort:
    """A quality for any method.

    Attributes:
        recursions: Factor of the usual number of recursions, that of the weights.
        refinement_steps: Iterations at each resolution, three tenths of them at the finest.
        half_on_gpu: Whether networks run in 16 bits where that is faster, which is on graphics cards.
    """

    recursions: float
    refinement_steps: int
    half_on_gpu: bool = False


EFFORTS = {
    "fast": Effort(1 / 2, 15, half_on_gpu=True),
    "balanced": Effort(1, 40),
    "best": Effort(4 / 3, 100),
}


def resolve(
    settings: Settings, method: Method | None, variant: Variant | None = None, *, on_gpu: bool = False
) -> Settings:
    """Return settings with no number left open: what is None becomes what the quality means for the weights.

    Args:
        settings: As somebody chose them.
        method: The method; None for refinement alone, which has no recursions and no precision.
        variant: The form of the method that will run; None where that is not known, so that the method decides.
        on_gpu: Whether a graphics card computes.

    Raises:
        EngineError: If the number of recursions that was asked for is not one of the method's.

    Examples:
        >>> from DeepAttentionRegEngine.protocol.registry import load_method
        >>> found = resolve(Settings(quality="fast"), load_method("rman"))
        >>> found.recursions, found.refinement_steps
        (2, 15)
    """
    effort = EFFORTS[settings.quality]
    steps = effort.refinement_steps if settings.refinement_steps is None else settings.refinement_steps
    if method is None:
        return replace(settings, recursions=None, refinement_steps=steps, half_precision=False)
    half = settings.half_precision
    if half is None:
        half = effort.half_on_gpu and on_gpu and method.needs_weights
    wanted = settings.recursions
    recursions = _usual(method, variant, effort) if wanted is None else method.recursions_for(wanted, variant)
    return replace(settings, recursions=recursions, refinement_steps=steps, half_precision=half)


def _usual(method: Method, variant: Variant | None, effort: Effort) -> int:
    limits, usual = method.recursions, method.usual_recursions(variant)
    # The levels of an iterative method are how far it reaches; fewer would spare no time.
    count = round(usual * effort.recursions) if method.needs_weights else usual
    return min(max(count, limits.minimum), limits.maximum)

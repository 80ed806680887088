"""What is compared: the forms of this registration that a user chooses among, and others' registrations."""

from typing import Any

from comparison.peers import PEERS

REFERENCE = "ants-syn"
# As the panel offers them; the linear alignment has been done for all.
START = {"alignment": "none", "device": "cpu"}
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "network": ("DeepAttentionReg, network alone", {"method": "rman", "refinement_steps": 0}),
    "fast": ("DeepAttentionReg, fast", {"method": "rman", "quality": "fast"}),
    "balanced": ("DeepAttentionReg, balanced", {"method": "rman", "quality": "balanced"}),
    "best": ("DeepAttentionReg, best", {"method": "rman", "quality": "best"}),
    "refinement": ("DeepAttentionReg, refinement alone", {"method": "none"}),
}
NAMES = [*OURS, *PEERS]

Spec = dict[str, Any]


def title(name: str) -> str:
    """Return what people call a method."""
    return OURS[name][0] if name in OURS else PEERS[name].title


def spec(name: str, **options: Any) -> Spec:
    """Return what child.py is told to register by.

    Args:
        name: One of `NAMES`.
        options: Fields of the engine's settings that differ; none for others' registrations.
    """
    return {"settings": {**OURS[name][1], **START, **options}} if name in OURS else {"peer": name}


def left_out() -> dict[str, str]:
    """Return what cannot take part, by title, and why."""
    missing = {peer.title: peer.missing() for peer in PEERS.values()}
    return {name: why for name, why in missing.items() if why}

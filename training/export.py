"""Turn a training checkpoint into a weight file of the extension and list it in weights.json.

    python training/export.py training/configs/rman_hippocampus.json --checkpoint runs/rman_hippocampus/checkpoint.pt

The averaged weights are stored in half precision; `evaluate.py` measures the stored file.
"""

import argparse
import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from data import RESOURCES


def write_weights(checkpoint: Path, target: Path) -> None:
    """Write the averaged network of a checkpoint as a half-precision state dict."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["average"]
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: value.half() for name, value in state.items()}, target)


def list_weights(entry: dict[str, Any]) -> None:
    """Add an entry to weights.json, in place of one with the same id."""
    path = RESOURCES / "weights.json"
    listed = json.loads(path.read_text(encoding="ascii"))["weights"] if path.exists() else []
    kept = [other for other in listed if other["id"] != entry["id"]]
    content = json.dumps({"weights": sorted([*kept, entry], key=lambda item: item["id"])}, indent=2)
    path.write_text(content + "\n", encoding="ascii")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--checkpoint", type=Path, required=True)
    arguments = parser.parse_args()
    release = json.loads(arguments.config.read_text(encoding="ascii"))["release"]
    target = RESOURCES / "Models" / f"{release['id']}.pt"
    write_weights(arguments.checkpoint, target)
    content = target.read_bytes()
    list_weights(
        {
            "id": release["id"],
            "file": target.name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
            "training_data": release["training_data"],
            "licence": release["licence"],
            "command": f"python training/train.py {arguments.config} --output runs/{arguments.config.stem}",
            "date": datetime.date.today().isoformat(),
            "validation": {},
        }
    )


if __name__ == "__main__":
    main()

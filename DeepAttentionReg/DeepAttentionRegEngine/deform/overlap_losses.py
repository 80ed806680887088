"""How well label maps agree in outline, voxel by voxel and as whole shapes.

Label maps are channels `(B, C, *spatial)` of probabilities, nd 2 or 3; warped ones must have been warped linearly, as
nearest neighbours have no gradient to the displacement.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def contour(labels: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared difference of the Laplacians of two label maps, without the outermost voxels.

    Args:
        labels: `(B, C, *spatial)` probabilities.
        target: Same shape.

    Source: He, He, Cao 2022 (AGF), eq. 2; the kernel (neighbours by faces) and the mean are this project's choice.
    """
    return (_laplacian(labels) - _laplacian(target)).square().mean()


def _laplacian(image: Tensor) -> Tensor:
    axes = range(2, image.ndim)

    def inner(across: int, start: int) -> Tensor:
        part = image
        for axis in axes:
            part = part.narrow(axis, start if axis == across else 1, image.shape[axis] - 2)
        return part

    neighbours = [inner(axis, start) for axis in axes for start in (0, 2)]
    return sum(neighbours[1:], neighbours[0]) - len(neighbours) * inner(0, 1)


def logit_cross_entropy(warped: Tensor, fixed: Tensor) -> Tensor:
    """Return the mean cross-entropy of a label map, its probabilities taken for logits, to another.

    Equal maps of two labels cost log(1 + 1/e) = 0.313, disjoint ones 1 more; gradients are bounded.

    Args:
        warped: `(B, C, *spatial)` probabilities, background included.
        fixed: Same shape.

    Source: Mansilla et al. 2020, code of AC-RegNet.
    """
    return F.cross_entropy(warped, fixed)


def code_distance(encode: Callable[[Tensor], Tensor], warped: Tensor, fixed: Tensor) -> Tensor:
    """Return the squared distance of the codes of two label maps, mean over the batch.

    Args:
        encode: From label maps to codes `(B, code)`, such as `Autoencoder.encode` of a frozen network in evaluation
            mode.
        warped: `(B, C, *spatial)` probabilities, background included.
        fixed: Same shape.

    Source: Mansilla et al. 2020; He, He, Cao 2022 (AGF), eq. 13.
    """
    return (encode(warped) - encode(fixed)).square().sum(1).mean()

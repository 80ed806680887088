"""Shows the deformation while it is being found: the moving volume, in the slice views, under the latest field."""

import slicer
from slicer.i18n import tr as _

from DeepAttentionRegEngine.volume import images

from ..nodes import Transforms
from ..tasks.Results import NodeReference
from .WarpedView import WarpedView


class Preview:
    """The moving volume under the latest field, over the fixed volume, until the registration ends."""

    def __init__(self, fixedVolume: slicer.vtkMRMLScalarVolumeNode, movingVolume: slicer.vtkMRMLScalarVolumeNode):
        """Prepare; nothing is shown before `show`.

        :param fixedVolume: what the moving volume is shown over.
        :param movingVolume: what to show.
        """
        self._volumes = NodeReference(fixedVolume), NodeReference(movingVolume)
        self._view = WarpedView(fixedVolume, movingVolume, _("preview"))
        self._transform = NodeReference(None)

    def show(self, path: str) -> None:
        """Show the moving volume under a field.

        :param path: displacement field, from fixed to moving points.
        :raises EngineError: if the file cannot be read.
        """
        if any(volume.get() is None for volume in self._volumes):
            return
        field = Transforms.makeGridTransform(*images.read_displacement(path))
        transform = self._transform.get()
        if transform is not None:
            transform.SetAndObserveTransformFromParent(field)
            return
        transform = slicer.vtkMRMLTransformNode()
        transform.SetAndObserveTransformFromParent(field)
        self._view.add(transform)
        self._transform = NodeReference(transform)
        self._view.show(transform)

    def close(self) -> None:
        """Remove what is shown and let the views show what they showed before."""
        self._view.close()

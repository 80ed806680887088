"""DeepAttentionReg's registration engine: PyTorch, no Slicer."""

__version__ = "0.1.0"

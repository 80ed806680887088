"""The Slicer side of DeepAttentionReg: MRML nodes in and out, and the engine as a child process."""

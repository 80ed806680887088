"""What can be said of a registered pair voxel by voxel: likeness, what has no counterpart, percentiles. No PyTorch."""

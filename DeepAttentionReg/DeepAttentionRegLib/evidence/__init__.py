"""What lets a deformation be judged, as nodes."""

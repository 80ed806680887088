"""What a deformation is held to besides the likeness of the images."""

"""What lets a registration be judged: uncertainty, recursions, Gaussians."""

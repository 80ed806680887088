"""Made-up anatomies whose deformation is known."""

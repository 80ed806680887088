"""The tools of the panel that judge a deformation, one a file."""

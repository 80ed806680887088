"""What Slicer's views show of a pair of volumes."""

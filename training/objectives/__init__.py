"""What a training step computes: tasks and loss terms."""

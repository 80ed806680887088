"""What a job is and says, which methods and weights there are, and files: standard library alone."""

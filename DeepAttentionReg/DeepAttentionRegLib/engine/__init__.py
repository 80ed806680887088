"""The engine as a child process, its interpreter, methods and weights."""

"""What the engine says of its own errors: registrations whose error is known, and the model that is fitted to them."""

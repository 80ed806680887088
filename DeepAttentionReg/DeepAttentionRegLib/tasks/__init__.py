"""Jobs of the engine for nodes of the scene."""

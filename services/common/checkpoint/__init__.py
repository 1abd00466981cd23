"""Reading and writing checkpoint directories."""

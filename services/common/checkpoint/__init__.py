"""Read and write checkpoint directories."""

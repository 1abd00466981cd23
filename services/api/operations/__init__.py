"""Programs for operators: health checks and certificates."""

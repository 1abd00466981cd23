"""The trainer service: its supervisor, exports and gRPC server."""

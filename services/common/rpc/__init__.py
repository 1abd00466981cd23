"""gRPC channels, servers, deadlines and the translation of errors."""

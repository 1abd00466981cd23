"""REST: transport only."""

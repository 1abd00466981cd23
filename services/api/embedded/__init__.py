"""PostgreSQL and Valkey started for the user, and the supervision of local services."""

"""The control plane: jobs, their records and their schedule. It never touches a tensor."""

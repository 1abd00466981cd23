"""Environments: data sets that a package makes, by name, with the scorers of that package."""

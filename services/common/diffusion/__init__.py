"""Block grid, unmasking rules and the decoding configuration; no model, no framework but arrays."""

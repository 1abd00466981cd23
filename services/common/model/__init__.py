"""Loading and saving block-diffusion models, their attention, tokenizers and tiny models."""

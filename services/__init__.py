"""DiRL Platform: post-training of block-diffusion language models."""

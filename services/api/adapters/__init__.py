"""What the control plane reaches outside of itself: other services, the broker, files, tokenizers."""

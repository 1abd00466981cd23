"""The reward service: grades responses in processes that can be killed. It never imports torch."""

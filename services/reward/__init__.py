"""The reward service: judges answers in processes that can be killed. It never imports torch."""

"""Celery tasks: short, repeatable, under a lease."""

"""Requests and responses of the REST API: what server, Python client and dashboard share."""

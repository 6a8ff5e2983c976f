"""Stores in object storage: published, fetched, verified, and read through a verified mirror."""

"""Upwell: a self-hosted upload server that never loses a byte."""

__version__ = "0.1.0"

"""Bytes in, facts out."""

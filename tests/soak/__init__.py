"""Campaigns that cut the power or kill the server, and compare it with what its clients know."""

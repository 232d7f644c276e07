"""Profiles as other programs read them."""

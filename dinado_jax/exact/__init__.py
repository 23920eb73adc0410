"""Worlds small enough to enumerate, in which controls are compared with the optimum q*."""

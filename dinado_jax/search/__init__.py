"""Search among many texts: for the likeliest, by beams or exactly, and for samples of p C."""

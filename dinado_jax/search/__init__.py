"""Search for the likeliest texts: by beams, and exactly."""

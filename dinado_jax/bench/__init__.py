"""`dinado bench`: how fast, how much memory, beside what."""

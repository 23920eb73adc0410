"""`dinado bench`: throughput and memory, compared with other implementations."""

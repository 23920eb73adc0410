"""The stages of a run, each reading and writing its own folder under runs/NAME."""

"""Files, processes, devices, errors: what has nothing to do with models."""

"""The pages of runs and folders."""

"""Checks of a data set: damage, duplicates, leaks between splits, statistics, and fitness for training."""

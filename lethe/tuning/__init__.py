"""Search a method's hyperparameters on tuning seeds and validation images."""

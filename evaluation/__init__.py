"""How good samples are: classifiers, distances, records of measurements."""

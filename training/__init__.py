"""From a DDPM and a data set to a complete log folder."""

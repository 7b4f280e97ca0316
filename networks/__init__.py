"""Networks that predict the noise eps(x_t, t, c) of a DDPM."""

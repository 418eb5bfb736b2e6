"""The methods of the paper (section 5, appendix): configurations, channels, marginals, losses, networks, the autoencoder."""

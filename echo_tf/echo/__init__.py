"""The Echo noise channel (section 2 of the paper): truncation bound, noise, exact rate, and the Keras layers."""

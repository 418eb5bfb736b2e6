"""Names by which configurations choose. Needs no Keras, so that a configuration is checked before Keras is imported."""

# echo.py
SAMPLERS = ("ring", "gather")
PARAMETRISATIONS = ("standardised", "literal", "centred")
ECHO_SOURCES = ("batch", "reservoir")

# channels.py and priors.py
CHANNELS = ("echo", "gaussian", "iaf")
PRIORS = ("own", "vamp", "maf")
AVERAGES = ("densities", "logs")

# networks.py
ENCODERS = ("conv",)
DECODERS = ("conv", "conv_5x5")

# losses.py: quantities whose constraint sets beta, and the sign with which beta answers to too much of each
CONSTRAINED = {"rate": 1.0, "distortion": -1.0}
BANDWIDTHS = ("median", "dimension", "fixed")

# optimizers.py
SCHEDULES = ("linear", "released")
DTYPE_POLICIES = ("float32", "mixed_bfloat16")

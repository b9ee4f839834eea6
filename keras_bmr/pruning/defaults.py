"""What `reduce_model` and `ModelReduction` do unless told otherwise."""

REDUCED_PRIOR = "spike_and_slab"
CRITERION = "delta_f"
GRANULARITY = "weight"
# Log Bayes factor in nats above which a reduced prior other than the
# spike-and-slab wins: the reduced model is more probable than the full one.
THRESHOLD = 0.0

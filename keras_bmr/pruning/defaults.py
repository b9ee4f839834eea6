"""What `reduce_model` and `ModelReduction` do unless told otherwise."""

REDUCED_PRIOR = "spike_and_slab"
CRITERION = "evidence"
GRANULARITY = "weight"
# Log Bayes factor in nats above which a reduced prior other than the
# spike-and-slab wins: the reduced model is more probable than the full one.
THRESHOLD = 0.0
# Log evidence in nats that a group has to bring to be kept by the spike-and-slab
# rule. Weights that the data said nothing of end up at the prior with a log Bayes
# factor of zero up to rounding, and there are very many of them: without a margin
# their sign is a coin toss. On MNIST 0.02 prunes about 97 % of LeNet-300-100.
MARGIN = 0.02

"""Time and memory of the reduction of a model with 25 million weights."""

import argparse
import resource
import subprocess
import sys
import time

TIME_LIMIT = 5.0
MEMORY_LIMIT = 3.0


def measure(size: int) -> None:
    """Prints seconds and gigabytes beyond the model itself, in this process."""
    import keras
    import numpy as np
    from tensorflow_probability import distributions as tfd

    import keras_bmr

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((size,)), keras.layers.Dense(size)])
    model = keras_bmr.to_variational(model, num_examples=1, prior="layerwise_normal")
    (layer,) = keras_bmr.layers.variational_layers(model)
    generator = np.random.default_rng(0)
    shape = (size, size)
    layer.assign_posterior(
        "kernel",
        tfd.Normal(
            generator.standard_normal(shape, np.float32),
            generator.uniform(0.1, 1.0, shape).astype("float32"),
        ),
    )
    # The peak so far includes the copies that set the model up, which would hide
    # part of the growth: the resident size now is the fair start.
    before = resident_gigabytes()
    start = time.perf_counter()
    reduction = keras_bmr.ModelReduction(model, verbose=True)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    kept = reduction.layers()[0].share_kept
    print(f"{seconds} {peak - before} {kept}")


def resident_gigabytes() -> float:
    """Memory that the process holds now."""
    with open("/proc/self/status") as status:
        (line,) = (line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) / 2**20


def main() -> int:
    """Measures in a fresh process, prints one line and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=5000)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        measure(arguments.size)
        return 0
    command = [sys.executable, __file__, "--child", "--size", str(arguments.size)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds, gigabytes, kept = map(float, output.stdout.split("\n")[-2].split())
    print(
        f"ModelReduction of {arguments.size**2:,} weights: {seconds:.2f} s "
        f"(limit {TIME_LIMIT}), {gigabytes:.2f} GiB beyond the model (limit "
        f"{MEMORY_LIMIT}), {kept:.1%} kept"
    )
    return int(seconds > TIME_LIMIT or gigabytes > MEMORY_LIMIT)


if __name__ == "__main__":
    sys.exit(main())

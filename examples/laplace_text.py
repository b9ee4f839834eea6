"""A small transformer that finds spam, with learned priors, then pruned.

The data are a file with lines `label TAB text` (`--data sms_spam.tsv`, ham or spam);
without it, short messages are made up. The transformer is trained while the Laplace
evidence sets its prior precisions, then pruned by magnitude, OPD and delta_f.

    python examples/laplace_text.py --data sms_spam.tsv
    python examples/laplace_text.py
"""

import argparse
import pathlib

import keras
import numpy as np
import tensorflow as tf

import keras_bmr

LENGTH, VOCABULARY = 32, 2000
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def load_data(path: pathlib.Path | None) -> tuple[list[str], np.ndarray]:
    """Texts and labels, 1 for spam."""
    if path is not None:
        lines = [
            line.split("\t", 1) for line in path.read_text("utf-8").splitlines() if line
        ]
        texts = [text for _, text in lines]
        return texts, np.array([label == "spam" for label, _ in lines], "int32")
    generator = np.random.default_rng(0)
    common = "see you at home later tonight call me when free".split()
    baits = "win prize cash claim urgent offer now text stop".split()
    texts, labels = [], generator.integers(2, size=600).astype("int32")
    for label in labels:
        words = generator.choice(common, 8).tolist()
        words[:3] = generator.choice(baits if label else common, 3).tolist()
        texts.append(" ".join(generator.permutation(words)))
    return texts, labels


def build() -> keras.Model:
    """Embedding, one block of attention, and a mean over the positions."""
    layers = keras.layers
    tokens = keras.Input((LENGTH,), dtype="int32")
    x = layers.Embedding(VOCABULARY, 32)(tokens)
    attended = layers.MultiHeadAttention(4, 8)(x, x)
    x = layers.LayerNormalization()(layers.Add()([x, attended]))
    hidden = layers.Dense(64, activation="relu")(x)
    x = layers.LayerNormalization()(layers.Add()([x, layers.Dense(32)(hidden)]))
    outputs = layers.Dense(2, name="head")(layers.GlobalAveragePooling1D()(x))
    return keras.Model(tokens, outputs)


def train(x, y, epochs: int, every: int, verbose: int) -> keras_bmr.laplace.Laplace:
    """The posterior of a transformer."""
    model = build()
    model.compile(keras.optimizers.Adam(1e-3), LOSS, metrics=["accuracy"])
    # The factor of a vocabulary is diagonal; all others are small.
    laplace = keras_bmr.laplace.Laplace(model, LOSS, structure="kronecker")
    evidence = keras_bmr.callbacks.MarginalLikelihood(
        laplace, (x, y), every=every, batch_size=128
    )
    model.fit(x, y, batch_size=32, epochs=epochs, verbose=verbose, callbacks=[evidence])
    return laplace


def prune(laplace, criterion: str, share: float) -> keras.Model:
    """A copy without a share of the weights of each large layer."""
    # A share of all weights would take the whole embedding first, whose weights are
    # many and small.
    few = keras.layers.LayerNormalization
    names = [x.name for x in laplace.model.layers if isinstance(x, few)]
    return keras_bmr.reduce_model(
        laplace,
        reduced_prior="point_mass",
        criterion=criterion,
        sparsity=share,
        ranking="layer",
        skip=[*names, "head"],
    )


def main() -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, help="lines of label TAB text")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--every", type=int, default=1, help="epochs between refits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", type=int, default=2)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(arguments.seed)
    texts, labels = load_data(arguments.data)
    order = np.random.default_rng(0).permutation(len(texts))
    test, rest = order[: len(order) // 5], order[len(order) // 5 :]
    vectorise = keras.layers.TextVectorization(
        VOCABULARY, output_sequence_length=LENGTH
    )
    vectorise.adapt(tf.constant([texts[i] for i in rest]))
    tokens = vectorise(tf.constant(texts)).numpy().astype("int32")
    laplace = train(
        tokens[rest],
        labels[rest],
        arguments.epochs,
        arguments.every,
        arguments.verbose,
    )
    precisions = zip(laplace.weights(), laplace.prior_precision.numpy(), strict=True)
    for (layer, name), precision in precisions:
        print(f"{layer.name}/{name}: prior precision {precision:.3g}")
    shares = (0.0, 0.5, 0.8, 0.9, 0.95)
    for criterion in ("magnitude", "opd", "delta_f"):
        cells = []
        for share in shares:
            model = prune(laplace, criterion, share) if share else laplace.model
            outputs = model.predict(tokens[test], verbose=0)
            accuracy = np.mean(outputs.argmax(-1) == labels[test])
            cells.append(f"{share:.0%}: {100 * accuracy:.2f}")
        print(f"{criterion}, accuracy in % at a share of zeros of", ", ".join(cells))


if __name__ == "__main__":
    main()

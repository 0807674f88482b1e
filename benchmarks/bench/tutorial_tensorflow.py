"""The algorithm of the well-known image-captioning-with-attention tutorial in TensorFlow, written from its description.

Needs `pip install tensorflow-cpu`. TensorFlow is untyped and imported inside the functions.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

TrainStep = Callable[[NDArray[np.float32], NDArray[np.int64]], float]


def load_tensorflow(threads: int) -> Any:
    """Return the library, configured to use `threads` threads within and between operations."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow

    tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
    tensorflow.config.threading.set_inter_op_parallelism_threads(threads)
    return tensorflow


def tensorflow_step(tf: Any, vocabulary: int, width: int = 256, units: int = 512) -> TrainStep:
    """Return a function that trains on features (R, N, F) and tokens (R, T), and returns the loss.

    The layers are those of `TorchTutorial`; the step is a `tf.function` whose Python loop over the words is unrolled
    into the graph, as in the tutorial, with Keras' Adam.

    Args:
        tf: from `load_tensorflow`.
        vocabulary: V.
        width: of projected regions and word embeddings.
        units: of attention, GRU and dense layer.
    """
    layers = tf.keras.layers
    projection = layers.Dense(width, activation="relu")
    embedding = layers.Embedding(vocabulary, width)
    key, query, score = layers.Dense(units), layers.Dense(units), layers.Dense(1)
    gru = layers.GRU(units, return_sequences=True, return_state=True, recurrent_initializer="glorot_uniform")
    dense, scores = layers.Dense(units), layers.Dense(vocabulary)
    cross_entropy = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
    optimizer = tf.keras.optimizers.Adam()

    def total_loss(features: Any, tokens: Any) -> Any:
        memory = projection(features)
        hidden = tf.zeros((tokens.shape[0], units))
        loss = 0.0
        for step in range(tokens.shape[1] - 1):
            energy = score(tf.nn.tanh(key(memory) + query(tf.expand_dims(hidden, 1))))
            context = tf.reduce_sum(tf.nn.softmax(energy, axis=1) * memory, axis=1)
            word = embedding(tokens[:, step : step + 1])
            output, hidden = gru(tf.concat([tf.expand_dims(context, 1), word], -1), initial_state=hidden)
            logits = scores(tf.reshape(dense(output), (-1, units)))
            real = tf.cast(tf.not_equal(tokens[:, step + 1], 0), tf.float32)
            loss += tf.reduce_mean(cross_entropy(tokens[:, step + 1], logits) * real)
        return loss

    parts = (projection, embedding, key, query, score, gru, dense, scores)

    def train_step(features: Any, tokens: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = total_loss(features, tokens)
        weights = [weight for part in parts for weight in part.trainable_variables]
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return loss

    compiled = tf.function(train_step)
    return lambda features, tokens: float(compiled(tf.constant(features), tf.constant(tokens)))

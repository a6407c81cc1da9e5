"""Slips of the kind that people make, each of which must turn a test red; see mutations.py.

A slip is named after what is wrong with it. `tests` are the files in which something must notice
and `only`, to save time, pytest's -k expression for where in them.
"""

from typing import NamedTuple


class Slip(NamedTuple):
    """One edit."""

    name: str
    file: str  # in aevb/
    old: str  # which is there exactly once
    new: str
    tests: str  # in tests/, separated by spaces
    only: str = ""


SLIPS = (
    # Densities
    Slip(
        "a half dropped from log N",
        "distributions.py",
        "-0.5 * jnp.sum(LOG_2PI + self.log_var + standardised_sq)",
        "-jnp.sum(LOG_2PI + self.log_var + standardised_sq)",
        "test_distributions.py",
    ),
    Slip(
        "the constant dropped from log N",
        "distributions.py",
        "jnp.sum(LOG_2PI + self.log_var + standardised_sq)",
        "jnp.sum(self.log_var + standardised_sq)",
        "test_distributions.py",
    ),
    Slip(
        "log_var taken for log_std in the sample",
        "distributions.py",
        "jnp.exp(0.5 * self.log_var) * noise",
        "jnp.exp(self.log_var) * noise",
        "test_distributions.py",
    ),
    Slip(
        "the mean over latents for their sum",
        "distributions.py",
        "-0.5 * jnp.sum(LOG_2PI + jnp.square(z))",
        "-0.5 * jnp.mean(LOG_2PI + jnp.square(z))",
        "test_distributions.py",
    ),
    Slip(
        "the KL reversed",
        "distributions.py",
        "jnp.sum(jnp.square(self.mean) + jnp.expm1(self.log_var) - self.log_var)",
        "jnp.sum((jnp.square(self.mean) + 1) * jnp.exp(-self.log_var) - 1 + self.log_var)",
        "test_distributions.py",
    ),
    Slip(
        "the KL's digits lost near the prior",
        "distributions.py",
        "jnp.expm1(self.log_var)",
        "(jnp.exp(self.log_var) - 1)",
        "test_distributions.py",
    ),
    Slip(
        "the mean over pixels for their sum",
        "likelihoods.py",
        "return jnp.sum(x * logits - softplus)",
        "return jnp.mean(x * logits - softplus)",
        "test_likelihoods.py",
        "bernoulli",
    ),
    Slip(
        "probabilities clamped for safety",
        "likelihoods.py",
        "x * logits - softplus",
        "x * jnp.log(jax.nn.sigmoid(logits) + 1e-6)"
        " + (1 - x) * jnp.log(jax.nn.sigmoid(-logits) + 1e-6)",
        "test_likelihoods.py",
        "bernoulli",
    ),
    Slip(
        "the sigmoid on the mean forgotten",
        "likelihoods.py",
        'DiagNormal(jax.nn.sigmoid(heads["mean_logits"])',
        'DiagNormal(heads["mean_logits"]',
        "test_likelihoods.py",
        "gaussian_unit_mean",
    ),
    # Samples
    Slip(
        "one key for all samples",
        "densities.py",
        "return jax.random.split(key, num_samples)",
        "return jnp.broadcast_to(key, (num_samples,))",
        "test_losses.py",
        "variance_falls",
    ),
    Slip(
        "log q added to the weights",
        "densities.py",
        "joint.log_lik(z) - log_q\n\n    return jax.vmap(log_weight)",
        "joint.log_lik(z) + log_q\n\n    return jax.vmap(log_weight)",
        "test_losses.py",
        "importance_weights or exact_posterior",
    ),
    Slip(
        "the prior left out of the score function",
        "densities.py",
        "return joint.log_prior(z) + joint.log_lik(z), guide.log_prob(stats, z)",
        "return joint.log_lik(z), guide.log_prob(stats, z)",
        "test_losses.py",
        "same_samples",
    ),
    Slip(
        "the path's gradient in the score function",
        "densities.py",
        "z = stop_gradient(guide.sample(key, stats))",
        "z = guide.sample(key, stats)",
        "test_losses.py",
        "gradient_is_the_exact_one and score_function",
    ),
    Slip(
        "theta's gradient through the slope",
        "densities.py",
        "jnp.sum(stop_gradient(slope) * z)",
        "jnp.sum(slope * z)",
        "test_gradients.py",
        "dreg or piwae",
    ),
    # Bounds
    Slip(
        "the KL rewarded",
        "losses.py",
        "return log_lik - kl",
        "return log_lik + kl",
        "test_losses.py",
        "exact_one and sgvb_b",
    ),
    Slip(
        "the reward's gradient in the score function",
        "losses.py",
        "stop_gradient(f) * log_q",
        "f * log_q",
        "test_losses.py",
        "gradient_is_the_exact_one and score_function",
    ),
    Slip(
        "a sample in its own baseline",
        "losses.py",
        "others = (jnp.sum(f) - f) / (num_samples - 1)",
        "others = jnp.mean(f)",
        "test_losses.py",
        "gradient_is_the_exact_one and score_function_loo",
    ),
    Slip(
        "log q not stopped in sticking the landing",
        "losses.py",
        "guide.log_prob(stop_gradient(stats), z)",
        "guide.log_prob(stats, z)",
        "test_gradients.py",
        "posterior",
    ),
    Slip(
        "log K forgotten",
        "losses.py",
        "jax.nn.logsumexp(log_w, axis=-1) - math.log(log_w.shape[-1])",
        "jax.nn.logsumexp(log_w, axis=-1)",
        "test_losses.py",
        "exact_one and iwae",
    ),
    Slip(
        "DReG's weights not squared",
        "losses.py",
        "w**2 * by_z",
        "w * by_z",
        "test_losses.py",
        "gradient_is_the_exact_one and dreg",
    ),
    Slip(
        "DReG's weights not detached",
        "losses.py",
        "w = stop_gradient(jax.nn.softmax(log_w))\n    return",
        "w = jax.nn.softmax(log_w)\n    return",
        "test_gradients.py",
        "dreg",
    ),
    Slip(
        "MIWAE's groups and their sizes exchanged",
        "losses.py",
        "return log_w.reshape(num_groups, -1)",
        "return log_w.reshape(-1, num_groups)",
        "test_losses.py",
        "same_samples",
    ),
    Slip(
        "PIWAE's parameters swapped",
        "losses.py",
        "w * log_w + w_in_group * (by_z + in_log_q)",
        "w_in_group * log_w + w * (by_z + in_log_q)",
        "test_gradients.py",
        "piwae",
    ),
    Slip(
        "alpha for 1 - alpha",
        "losses.py",
        "powers = (1 - alpha) * log_w",
        "powers = alpha * log_w",
        "test_losses.py",
        "same_samples",
    ),
    Slip(
        "the free nats a ceiling",
        "losses.py",
        "jnp.maximum(kl, free_nats)",
        "jnp.minimum(kl, free_nats)",
        "test_losses.py",
        "weighted_kl",
    ),
    Slip(
        "the surrogate's value for the bound's",
        "losses.py",
        "return stop_gradient(value) + (gradient_of - stop_gradient(gradient_of))",
        "return gradient_of",
        "test_losses.py",
        "same_samples",
    ),
    Slip(
        "N / M dropped",
        "losses.py",
        "return num_data * jnp.mean(bounds)",
        "return jnp.mean(bounds)",
        "test_losses.py",
        "minibatch",
    ),
    # Algorithm 1
    Slip(
        "the prior not scaled by 1 / N",
        "algorithms/sgvb.py",
        "total += log_param_prior(",
        "total += num_data * log_param_prior(",
        "test_sgvb.py",
        "prior",
    ),
    Slip(
        "the prior's standard deviation not squared",
        "algorithms/sgvb.py",
        "-0.5 / std**2",
        "-0.5 / std",
        "test_sgvb.py",
        "prior",
    ),
    Slip(
        "descent of the bound",
        "algorithms/sgvb.py",
        "return -value, mean_bound",
        "return value, mean_bound",
        "test_sgvb.py",
        "unbiased",
    ),
    Slip(
        "one key for all datapoints",
        "algorithms/sgvb.py",
        "jax.vmap(bound_of)(jax.random.split(key, len(batch.x)), batch.x)",
        "jax.vmap(bound_of, in_axes=(None, 0))(key, batch.x)",
        "test_sgvb.py",
        "their_own_noise",
    ),
    Slip(
        "Adagrad with optax's accumulator",
        "optimizers.py",
        '"initial_accumulator_value": 0.0',
        '"initial_accumulator_value": 0.1',
        "test_optimizers.py",
        "papers",
    ),
    # The loop
    Slip(
        "the same order in every epoch",
        "loop.py",
        "jax.random.permutation(jax.random.fold_in(keys.order, number), num_data)",
        "jax.random.permutation(keys.order, num_data)",
        "test_loop.py",
        "order",
    ),
    Slip(
        "the same key in every step",
        "loop.py",
        "jax.random.split(jax.random.fold_in(keys.step, state.step))",
        "jax.random.split(keys.step)",
        "test_loop.py",
        "fresh_keys",
    ),
    Slip(
        "one key for preprocessing and for samples",
        "loop.py",
        "jax.vmap(preprocess)(jax.random.split(data_key, batch_size), data[indices])",
        "jax.vmap(preprocess, in_axes=(None, 0))(data_key, data[indices])",
        "test_loop.py",
        "fresh_keys",
    ),
    # Model, data, evaluation
    Slip(
        "the encoder's key used again for the decoder",
        "vae.py",
        "encoder_key, decoder_key, guide_key, prior_key = jax.random.split(key, 4)",
        "encoder_key = decoder_key = guide_key = prior_key = key",
        "test_vae.py",
        "drawn_apart",
    ),
    Slip(
        "a linear hidden layer",
        "networks.py",
        'x = jnp.tanh(dense(size, f"hidden_{layer}")(x))',
        'x = dense(size, f"hidden_{layer}")(x)',
        "test_vae.py",
        "tanh",
    ),
    Slip(
        "the noise's variance for its standard deviation",
        "data/synthetic.py",
        "jnp.sqrt(self.noise_var) * noise",
        "self.noise_var * noise",
        "test_data.py",
        "synthetic",
    ),
    Slip(
        "a digest that is not compared",
        "data/_files.py",
        "if (seen := digest(array)) != part.sha256:",
        "if not (seen := digest(array)):",
        "test_data.py",
        "broken_idx",
    ),
    Slip(
        "the digest of other faces",
        "data/frey_faces.py",
        "2438ba4f0d2a6bd8",
        "2438ba4f0d2a6bd9",
        "test_data.py",
        "published_film",
    ),
    Slip(
        "one noise for all datapoints of an evaluation",
        "evaluate.py",
        "noise_key = jax.random.fold_in(jax.random.key(NOISE_SEED), number)",
        "noise_key = jax.random.key(NOISE_SEED)",
        "test_evaluate.py",
        "score_is_the_mean",
    ),
    Slip(
        "nats called bits",
        "evaluate.py",
        "nats / (num_dims * math.log(2.0))",
        "nats / num_dims",
        "test_evaluate.py",
        "bits",
    ),
)

"""Answers from a trained model: prefill, key-value cache, decoding, sampling, likelihoods."""

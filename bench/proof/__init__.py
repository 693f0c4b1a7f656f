"""Proof of trained weights: frozen features against random weights of the same size and against classical features."""

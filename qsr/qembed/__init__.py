"""Quantum embeddings: tokens as superpositions of senses, entangled along the sequence and collapsed by their context."""

"""Ternary quantiser and the straight-through linear layer."""

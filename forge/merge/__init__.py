"""Merging models: methods as pure functions over tensors, recipes, and files streamed tensor by tensor.

Arrays of numpy throughout, never torch: a merge starts in a fraction of the time, and blocks of an array stay
in the cache. A torch tensor on the CPU is one for the asking, `tensor.numpy()`, without a copy.
"""

from forge.merge.compose import Parents
from forge.merge.group import Group
from forge.merge.merging import Merged, merge
from forge.merge.methods import METHODS, Method
from forge.merge.recipe import Recipe, check_recipe, load_recipe

__all__ = [
    "METHODS",
    "Group",
    "Merged",
    "Method",
    "Parents",
    "Recipe",
    "check_recipe",
    "load_recipe",
    "merge",
]

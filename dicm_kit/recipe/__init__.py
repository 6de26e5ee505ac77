"""Recipes: YAML -> typed recipe -> components."""

"""Widgets: each shows frozen values that a screen hands to it, and repaints only the cells that changed."""

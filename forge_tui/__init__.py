"""The terminal application: how a person drives Forge from a keyboard.

It meets a run only in the registry, so it never imports torch and a stalled screen never slows a step.
"""

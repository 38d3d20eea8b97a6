"""The terminal application: a keyboard-driven view of, and control over, Forge sessions.

It meets training only in the registry: nothing here touches the phase loop, and torch is never imported.
"""

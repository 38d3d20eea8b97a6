"""Screens: each composes panes, answers keys from the action table, and shows what the services post."""

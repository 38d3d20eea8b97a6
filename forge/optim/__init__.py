"""Grokfast, Muon, schedules and the optimiser step."""

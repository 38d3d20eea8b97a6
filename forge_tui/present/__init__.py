"""From a snapshot to lines and charts: pure functions, testable without a terminal."""

"""The terminal itself: reporter, forecast, downloads, tables, signals."""

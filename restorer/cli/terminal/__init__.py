"""Output and input of the terminal: reporter, forecast, downloads, tables, help, signals and standard streams."""

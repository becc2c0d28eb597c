"""What every engine that serves many personalities at once needs, without any engine: admission and slots."""

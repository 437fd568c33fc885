"""What runs the service beside its searches: figures, circuit breakers, alerts, feedback."""

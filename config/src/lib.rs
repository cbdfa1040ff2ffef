//! Configuration: one YAML file and the environment, checked into values that can be trusted.

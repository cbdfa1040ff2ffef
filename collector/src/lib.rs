//! Intake, admission, the road through the logs, delivery to the lake.

//! The settlement rules of the two logs, pure: watermarks, decisions, checkpoint, replay.

"""The recorder: events of learners become rows."""

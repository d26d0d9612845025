"""The tasks of the native endpoints: their prompts, and the splitting of long texts."""

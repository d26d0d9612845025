"""The small local model, and what a person sees first."""

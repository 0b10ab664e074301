"""The dialog of models: which there are, what each is, and actions on it."""

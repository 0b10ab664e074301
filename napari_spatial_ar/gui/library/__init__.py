"""The dialog of models: what is there, what each is, and what can be done with it."""

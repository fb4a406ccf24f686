"""Fine-tuning as sections 4.2 to 4.6 of the paper have it: tasks, grid, tables, submission."""

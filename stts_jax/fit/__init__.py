"""Does it fit, and how fast could it be: compile for hardware that isn't here, and count."""

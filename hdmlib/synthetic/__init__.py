"""People that the project draws itself."""

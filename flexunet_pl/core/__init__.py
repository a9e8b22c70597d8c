"""What every package may use: errors, atomic files, console and shared types."""

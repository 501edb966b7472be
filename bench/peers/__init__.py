"""This project and others in one run: ``python -m bench peers``. README.md says how the others are installed."""

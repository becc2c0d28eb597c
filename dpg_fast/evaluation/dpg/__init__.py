"""DPG's evaluation: trained and new personalities, interpolation, all methods side by side."""

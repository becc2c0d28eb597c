"""`dpg-fast neurons`: find, calibrate, describe and convert personality neurons."""

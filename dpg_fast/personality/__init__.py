"""What a row of a batch may be asked to be: five scores, a blend of characters, a description, a stage."""

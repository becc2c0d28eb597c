"""How far judges can be trusted: agreement of several, figures against what was asked for, methods beside each other."""

"""From text to scores of the five traits, with evidence: judges, their journals, and how far they agree."""

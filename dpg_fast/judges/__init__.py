"""From text to scores of the five traits, with evidence: judges, the runner of answers and judgements, and how far they agree."""

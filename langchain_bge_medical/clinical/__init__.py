"""What is medical: findings in a patient's words, evidence, triage. Pure Python on strings, no model."""

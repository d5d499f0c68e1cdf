"""Fine-tuning: suites of public tasks beside their published rows, and real text that comes with packages."""

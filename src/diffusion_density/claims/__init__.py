"""What the papers claim, as data: definitions, measurements on tables, verdicts, a page, and runs compared."""

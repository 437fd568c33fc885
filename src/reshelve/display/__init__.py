"""Numbers and charts for people: the same in tables, reports and pages."""

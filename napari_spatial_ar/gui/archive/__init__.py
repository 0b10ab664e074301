"""Archives (PACS) in the docks: scans are found and opened, results sent."""

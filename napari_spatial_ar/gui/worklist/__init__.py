"""The worklist: scans of a folder, scored in the background and read one after the other."""

"""Everything that changes another library."""

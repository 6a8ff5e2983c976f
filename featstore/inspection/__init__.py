"""What a store and a corpus hold, in numbers, tables and a page. Reads only."""

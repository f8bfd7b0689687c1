"""An app whose nodes each read a file of their own."""

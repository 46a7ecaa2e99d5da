"""What can be said of the measurements, and how sure it is. Nothing here is printed or drawn."""

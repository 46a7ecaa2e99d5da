"""What is to be measured: the experiment's file as values, and the order of everything."""

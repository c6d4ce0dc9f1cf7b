"""What the three scenarios and the Jacobian analysis share."""
